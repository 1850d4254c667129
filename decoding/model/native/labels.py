"""Labels: they say of each number of a tensor which vector it is part of, its row, and its place there."""

from __future__ import annotations

import itertools

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.native.cell import NotNative, what
from decoding.model.native.vectors import Source, Vector, block, width

# Rows of the step that is followed: more than one, so that a row is told from the whole batch.
ROWS = 3
# A label: which vector, which row, which number of the vector.
BITS = 32
PLACE = (1 << BITS) - 1


class Labels:
    """The labels of the tensors of one step.

    Attributes:
        vectors: all that there are; a label names one by its place here.
        labels: int64, by tensor, of those that depend on numbers of an input; empty where nothing is known of them.
    """

    def __init__(self) -> None:
        self.vectors: list[Vector] = []
        self.labels: dict[str, Array] = {}

    def new(self, vector: Vector) -> Array:
        """Labels [rows, size] of a new vector."""
        self.vectors.append(vector)
        return self.labelled(vector)

    def labelled(self, vector: Vector) -> Array:
        number = next(i for i, v in enumerate(self.vectors) if v is vector)
        rows = np.arange(number * ROWS, (number + 1) * ROWS, dtype=np.int64)
        labels: Array = (rows[:, None] << BITS) + np.arange(vector.size)
        return labels

    def whose(self, labels: Array) -> Vector:
        """The vector of the first number."""
        return self.vectors[int(labels.flat[0] >> BITS) // ROWS]

    def parts(self, node: Node, labels: Array) -> tuple[Array, Array, Array]:
        """The vector and place of each number along the last axis, and the row of each position before it."""
        flat = labels.reshape(-1, labels.shape[-1])
        whose = flat >> BITS
        vectors, rows, places = whose // ROWS, whose % ROWS, flat & PLACE
        if (rows != rows[:, :1]).any() or (vectors != vectors[0]).any() or (places != places[0]).any():
            raise NotNative(f"{what(node)} mixes rows")
        return vectors[0], rows[:, 0], places[0]

    def vector(self, node: Node, name: str) -> tuple[Vector, Array]:
        """The same of a tensor by its name."""
        return self.vector_of(node, self.labels[name])

    def vector_of(self, node: Node, labels: Array) -> tuple[Vector, Array]:
        """The vector that the last axis holds, and the row of each position before it."""
        flat = labels.reshape(-1, labels.shape[-1])
        first, vector = flat[:, 0], self.whose(flat)
        whose = first >> BITS
        whole = vector.kind == "linear" and vector.size == flat.shape[1] and not (first & PLACE).any()
        if whole and (whose // ROWS == whose[0] // ROWS).all() and (flat - first[:, None] == np.arange(vector.size)).all():  # fmt: skip
            return vector, whose % ROWS  # as nearly always: told apart by few operations, for with_weights()
        vectors, rows, places = self.parts(node, labels)
        ends = [0, *(np.flatnonzero((np.diff(vectors) != 0) | (np.diff(places) != 1)) + 1).tolist(), len(vectors)]
        found = [(self.vectors[vectors[a]], places[a:b]) for a, b in itertools.pairwise(ends)]
        if any(vector.kind != "linear" for vector, _ in found):
            raise NotNative(f"{what(node)} reads a state or ids as numbers")
        if len(found) == 1 and len(found[0][1]) == found[0][0].size:
            return found[0][0], rows
        terms: dict[Source, Array | None] = {}
        sizes = {s: width(v, s) for v, _ in found for s in v.terms}
        for source, size in sizes.items():
            blocks = [block(v.terms, source, own, size) for v, own in found]
            terms[source] = np.concatenate(blocks)
        bias = np.concatenate([v.bias[own] for v, own in found])
        return Vector(len(vectors), known=terms, constant=bias), rows
