"""Labels: they say of each number of a tensor which vector it is part of, its row, and its place there."""

from __future__ import annotations

import itertools

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.native.vectors import NotNative, Pieces, TokenVector, Vector, what

# Rows of the step that is followed: more than one, so that a row is told from the whole batch.
ROWS = 3
# A label: which vector, which row, which number of the vector.
_BITS = 32
_PLACE = (1 << _BITS) - 1


class Labels:
    """The labels of the tensors of one step.

    Attributes:
        labels: int64, by tensor, of those that depend on numbers of an input; empty where nothing is known of them.
        pieces: makes the parts of vectors.
    """

    def __init__(self) -> None:
        self.labels: dict[str, Array] = {}
        self.pieces = Pieces()
        self._vectors: list[Vector] = []
        self._numbers: dict[Vector, int] = {}

    def labelled(self, vector: Vector) -> Array:
        """Labels [rows, size] of a vector."""
        if vector not in self._numbers:
            self._numbers[vector] = len(self._vectors)
            self._vectors.append(vector)
        number = self._numbers[vector]
        rows = np.arange(number * ROWS, (number + 1) * ROWS, dtype=np.int64)
        labels: Array = (rows[:, None] << _BITS) + np.arange(vector.size)
        return labels

    def spread(self, vector: Vector, rows: Array, shape: tuple[int, ...]) -> Array:
        """Labels of these rows of a vector, in a shape."""
        return self.labelled(vector)[rows].reshape(shape)

    def rows_of(self, labels: Array) -> Array:
        """The row of each number."""
        return (labels >> _BITS) % ROWS

    def of_token(self, labels: Array) -> TokenVector | None:
        """The function of the token that each of these numbers is, where all are the same number of the same one."""
        first = labels.flat[0]
        vector = self._vectors[int(first >> _BITS) // ROWS]
        same = ((labels >> _BITS) // ROWS == (first >> _BITS) // ROWS).all() and not (labels & _PLACE).any()
        return vector if same and isinstance(vector, TokenVector) and vector.size == 1 else None

    def vector(self, node: Node, labels: Array) -> tuple[Vector, Array]:
        """The vector that the last axis holds, and the row of each position before it.

        Raises:
            NotNative: positions hold different vectors, or one holds numbers of several rows.
        """
        flat = labels.reshape(-1, labels.shape[-1])
        first = flat[:, 0]
        numbers, whole = (first >> _BITS) // ROWS, self._vectors[int(first[0] >> _BITS) // ROWS]
        starts = whole.size == flat.shape[1] and not (first & _PLACE).any() and (numbers == numbers[0]).all()
        if starts and (flat == first[:, None] + np.arange(whole.size)).all():
            return whole, (first >> _BITS) % ROWS  # as nearly always: told by few operations, for with_weights()
        whose = flat >> _BITS
        vectors, rows, places = whose // ROWS, whose % ROWS, flat & _PLACE
        if (rows != rows[:, :1]).any() or (vectors != vectors[0]).any() or (places != places[0]).any():
            raise NotNative(f"{what(node)} mixes rows")
        own, place = vectors[0], places[0]
        ends = [0, *(np.flatnonzero((np.diff(own) != 0) | (np.diff(place) != 1)) + 1).tolist(), len(own)]
        cuts = itertools.pairwise(ends)
        parts = [self.pieces.part(self._vectors[own[a]], int(place[a]), int(place[b - 1]) + 1) for a, b in cuts]
        return self.pieces.joined(parts), rows[:, 0]
