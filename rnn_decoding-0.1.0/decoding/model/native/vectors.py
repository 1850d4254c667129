"""Vectors as functions of the token, the contexts, the states and the layers: what the native plan computes with.

A vector is a `Source`, a `TokenVector`, a `Sum` of products, several vectors `Joined`, or a `Function` of others, number by
number. Each is one object: two tensors that hold the same numbers hold the same object.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.types import Array

_NUMBERS = itertools.count()

# What a vector is multiplied by: a matrix, the diagonal of one, or None for the identity.
Factor = Array | None


# A larger matrix is not made where the graph has none: of the one-hot vectors of many ids, say.
_LARGEST = 1 << 28  # numbers


class NotNative(Exception):
    """What in a graph the native step does not have."""


def what(node: Node | None) -> str:
    """An operator in words: what it is, and its name."""
    return "an operator" if node is None else f"{node.op} {node.label}"


@dataclass(eq=False)
class Vector:
    """A vector of each row.

    Attributes:
        node: the operator that computes it, for messages.
        number: vectors are numbered in the order in which they are computed.
    """

    size: int
    node: Node | None = field(default=None, kw_only=True)
    number: int = field(default_factory=lambda: next(_NUMBERS), init=False)


@dataclass(eq=False)
class Source(Vector):
    """What no operator of the plan computes.

    Attributes:
        kind: "context", "state", or "h" and "c", which a layer gives.
        of: the context's name, the state's (name, first number), or the layer.
    """

    kind: str
    of: Any


@dataclass(eq=False)
class TokenVector(Vector):
    """A function of the token alone.

    Attributes:
        values: takes ids [n] and returns [n, size].
        table: [ids, size], where the vector is the token's row of it.
        one_hot: the vector is the token's one-hot vector.
    """

    values: Callable[[Array], Array]
    table: Array | None = None
    one_hot: bool = False


@dataclass(eq=False)
class Sum(Vector):
    """``sum of factor @ vector, plus bias`` [size], float64."""

    parts: tuple[tuple[Factor, Vector], ...]
    bias: Array


@dataclass(eq=False)
class Joined(Vector):
    """Vectors one after the other."""

    pieces: tuple[Vector, ...]


@dataclass(eq=False)
class Function(Vector):
    """A function of each number: an activation by the kernels' name for it, "clip" (from alpha to beta), or "mul"."""

    name: str
    inputs: tuple[Vector, ...]
    alpha: float = 0.0
    beta: float = 0.0


class Pieces:
    """Makes parts of vectors and joins them, each of them once."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Vector] = {}

    def part(self, vector: Vector, start: int, end: int) -> Vector:
        """The numbers from `start` to `end`."""
        if start == 0 and end == vector.size:
            return vector
        key = (vector.number, start, end)
        if key not in self._made:
            self._made[key] = self._part(vector, start, end)
        return self._made[key]

    def joined(self, pieces: Iterable[Vector]) -> Vector:
        """The pieces one after the other."""
        flat = tuple(p for piece in pieces for p in (piece.pieces if isinstance(piece, Joined) else (piece,)))
        if len(flat) == 1:
            return flat[0]
        key = tuple(piece.number for piece in flat)
        if key not in self._made:
            self._made[key] = Joined(sum(piece.size for piece in flat), flat)
        return self._made[key]

    def _part(self, v: Vector, start: int, end: int) -> Vector:
        size, node = end - start, v.node
        if isinstance(v, TokenVector):
            table = None if v.table is None else v.table[:, start:end]
            return TokenVector(size, lambda ids: v.values(ids)[:, start:end], table, node=node)
        if isinstance(v, Sum):
            parts = tuple((_rows(f, start, end), self.part(x, start, end) if f is None or f.ndim == 1 else x) for f, x in v.parts)  # fmt: skip
            return combined(parts, v.bias[start:end], node)
        if isinstance(v, Joined):
            begins = np.cumsum([0, *(p.size for p in v.pieces)]).tolist()
            cuts = [(p, max(start - a, 0), min(end - a, p.size)) for p, a in zip(v.pieces, begins, strict=False)]
            return self.joined(self.part(p, a, b) for p, a, b in cuts if a < b)
        if isinstance(v, Function):
            return Function(size, v.name, tuple(self.part(x, start, end) for x in v.inputs), v.alpha, v.beta, node=node)
        assert isinstance(v, Source)
        if v.kind == "state":
            name, first = v.of
            return Source(size, "state", (name, first + start))
        return Sum(size, ((np.eye(v.size, dtype=np.float32)[start:end], v),), np.zeros(size), node=node)


def combined(parts: Iterable[tuple[Factor, Vector]], bias: Array, node: Node | None = None) -> Vector:
    """The sum of the parts, in which sums are taken apart and what is multiplied by 0 is left out.

    A sum of products of vectors stays whole: it may be what a layer gives. So does what a matrix multiplies.
    """
    found: dict[Vector, Factor] = {}
    for factor, vector in parts:
        inner: tuple[tuple[Factor, Vector], ...] = ((factor, vector),)
        if isinstance(vector, Sum) and (factor is None or factor.ndim == 1) and not _of_products(vector):
            inner = tuple((times(factor, f), x) for f, x in vector.parts)
            bias = bias + (vector.bias if factor is None else factor * vector.bias)
        for f, x in inner:
            found[x] = plus(found[x], f, x.size) if x in found else f
    kept = tuple((_simple(f), x) for x, f in found.items() if f is None or f.any())
    if len(kept) == 1 and kept[0][0] is None and not np.any(bias):
        return kept[0][1]
    return Sum(len(bias), kept, np.asarray(bias, np.float64), node=node)


def product(weights: Array, x: Vector, bias: Array, node: Node | None = None) -> Vector:
    """``weights @ x + bias``, each piece of x with the weights of its own."""
    pieces = x.pieces if isinstance(x, Joined) else (x,)
    ends = np.cumsum([piece.size for piece in pieces])
    parts = [(weights[:, end - p.size : end], p) for p, end in zip(pieces, ends.tolist(), strict=True)]
    merged: dict[Vector, Array] = {}
    for w, p in parts:
        merged[p] = merged[p] + w if p in merged else w
    return Sum(len(weights), tuple((w, p) for p, w in merged.items()), np.asarray(bias, np.float64), node=node)


def matrix(factor: Factor, size: int) -> Array:
    """A factor as a matrix, float32.

    Raises:
        NotNative: it would be too large.
    """
    if (factor is None or factor.ndim == 1) and size * size > _LARGEST:
        raise NotNative(f"a vector of {size} numbers, which would be multiplied by itself")
    if factor is None:
        return np.eye(size, dtype=np.float32)
    return np.diag(factor).astype(np.float32) if factor.ndim == 1 else factor


def times(a: Factor, b: Factor) -> Factor:
    """The product of two factors; matrices are summed in float64."""
    if a is None or b is None:
        return b if a is None else a
    if a.ndim == 1:
        return a * b if b.ndim == 1 else (a[:, None] * b).astype(np.float32)
    if b.ndim == 1:
        return (a * b).astype(np.float32)
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


def plus(a: Factor, b: Factor, size: int) -> Factor:
    """The sum of two factors over a vector of this size."""
    diagonals = [np.ones(size) if f is None else f for f in (a, b)]
    if all(d.ndim == 1 for d in diagonals):
        total: Array = diagonals[0] + diagonals[1]
        return total
    return matrix(a, size) + matrix(b, size)


def _simple(factor: Factor) -> Factor:
    return None if factor is not None and factor.ndim == 1 and (factor == 1).all() else factor


def _of_products(vector: Sum) -> bool:
    return any(isinstance(x, Function) and x.name == "mul" for _, x in vector.parts)


def _rows(factor: Factor, start: int, end: int) -> Factor:
    return None if factor is None else factor[start:end]


def same(a: Vector, b: Vector) -> bool:
    """Return whether two vectors are the same by what they are computed from."""
    if a is b:
        return True
    if not (isinstance(a, Sum) and isinstance(b, Sum)) or not np.array_equal(a.bias, b.bias):
        return False
    mine, others = ({x: f for f, x in v.parts} for v in (a, b))
    return mine.keys() == others.keys() and all(_equal(f, others[x]) for x, f in mine.items())


def _equal(a: Factor, b: Factor) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def sources(vector: Vector) -> set[Vector]:
    """The sources and functions of the token that a vector depends on."""
    found, todo = set[Vector](), [vector]
    seen = set[Vector]()
    while todo:
        v = todo.pop()
        if v in seen:
            continue
        seen.add(v)
        if isinstance(v, Source | TokenVector):
            found.add(v)
        todo += inner_vectors(v)
    return found


def inner_vectors(v: Vector) -> tuple[Vector, ...]:
    """What a vector is computed from."""
    if isinstance(v, Sum):
        return tuple(x for _, x in v.parts)
    if isinstance(v, Joined):
        return v.pieces
    return v.inputs if isinstance(v, Function) else ()
