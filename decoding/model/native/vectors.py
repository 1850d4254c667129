"""Vectors as linear functions of the token, the contexts and the layers: what plan.py computes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.model.graph.types import Array

# What a vector is a linear function of: the token's one-hot vector, a context, or what a layer gives.
Source = tuple[str, Any]
TOKEN: Source = ("token", None)


@dataclass
class Vector:
    """A vector of each row: ``sum of matrix @ source + bias``; a matrix that is None is the identity.

    Attributes:
        kind: "linear", or what is no linear function and only moved: "ids", "state", "c".
        of: the state's name, or the layer's number, where the kind is "state" or "c".
        product: the vector, the weights and the bias that it was computed from, where it is a product.
    """

    size: int
    kind: str = "linear"
    of: Any = None
    known: dict[Source, Array | None] | None = None
    constant: Array | None = None
    product: tuple[Vector, Array, Array] | None = None

    @property
    def terms(self) -> dict[Source, Array | None]:
        """The matrix of each source."""
        if self.known is None and self.product is not None:
            x, weights, _ = self.product
            self.known = {s: weights if m is None else times(weights, m) for s, m in x.terms.items()}
        return self.known or {}

    @property
    def bias(self) -> Array:
        """What is added, float64 [size]."""
        if self.constant is None:
            if self.product is None:
                return np.zeros(self.size)
            x, weights, bias = self.product
            self.constant = weights.astype(np.float64) @ x.bias + bias
        return self.constant


def width(vector: Vector, source: Source) -> int:
    """Numbers of a source that the vector is computed from."""
    matrix = vector.terms[source]
    return vector.size if matrix is None else matrix.shape[1]


def block(terms: dict[Source, Array | None], source: Source, rows: Array, width: int) -> Array:
    """Some rows of a source's matrix; zeros where the vector does not depend on it."""
    if source not in terms:
        return np.zeros((len(rows), width), np.float32)
    matrix = terms[source]
    return np.eye(width, dtype=np.float32)[rows] if matrix is None else matrix[rows]


def times(a: Array, b: Array) -> Array:
    """The product of two matrices, summed in float64."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


def over(weights: Array, matrix: Array | None) -> Array:
    """Weights over a product as weights over what was multiplied."""
    return weights if matrix is None else times(weights, matrix)


def equal(a: Array | None, b: Array | None) -> bool:
    """Whether two matrices are the same; None is the identity."""
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
