"""Puts the layers of a graph one after the other, as the kernels run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from decoding.kernels.native.layers import NativeArrays
from decoding.kernels.native.reference import ACTIVATIONS
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.native.cell import ReadLayer
from decoding.model.native.formulas import dense
from decoding.model.native.vectors import (
    Factor,
    Function,
    Joined,
    NotNative,
    Source,
    Sum,
    TokenVector,
    Vector,
    combined,
    inner_vectors,
    matrix,
    same,
    sources,
    times,
    what,
)

# What a vector is a linear function of; the token's one-hot vector is None.
Terms = dict[Source | Vector | None, Factor]


class Network:
    """The layers, each of which reads the one before.

    Args:
        recurrent: the layers with states, in the order in which they are computed.
        ids: number of token ids.
        output: the logits.
        node: the operator that gives them, for messages.

    Attributes:
        layers: the recurrent layers and the dense ones, as they are read.
        contexts: names of the contexts that the first layer reads.

    Raises:
        NotNative: a layer reads something else.
    """

    def __init__(self, recurrent: Sequence[ReadLayer], ids: int, output: Vector, node: Node) -> None:
        self._ids = ids
        self._given = {after: layer for layer in recurrent for after in layer.after}
        self.layers: list[ReadLayer] = []
        self.contexts: list[str] = []
        self._embedding: Array | None = None
        self._context_weights: list[Array] = []
        for layer in recurrent:
            self._append(layer)
        rows, x, bias = None, output, np.zeros(output.size)  # type: Factor, Vector, Array
        if isinstance(output, Sum) and len(output.parts) == 1:
            (rows, x), bias = output.parts[0], output.bias
        weights, added, _ = self._over_top(node, matrix(rows, x.size), x)
        natives = [layer.native for layer in self.layers]
        self.arrays = NativeArrays(ids, self._embedding, natives, weights, bias + added, self._context_weights)

    def _append(self, layer: ReadLayer) -> None:
        """Add a layer after the others, its input weights over what the native step feeds it."""
        self._dense_below(layer.x)
        native, weights = layer.native, layer.native.input
        if self.layers:
            weights, offset, x = self._over_top(layer.node, weights, layer.x)
        else:
            weights, offset, x = self._over_token(layer.node, weights, layer.x)
        native = replace(native, input=weights, bias=native.bias + offset)
        self.layers.append(replace(layer, native=native, x=x))

    def _dense_below(self, x: Vector) -> None:
        """Add the dense layers that a vector is computed through."""
        for v in sorted(self._functions(x), key=lambda v: v.number):
            if v in self._given:
                continue
            if all(isinstance(s, TokenVector) for s in sources(v)):
                continue  # a table, as below
            layer = dense(v)
            if layer is None:
                raise NotNative(what(v.node))
            self._given[v] = layer
            self._append(layer)

    def _functions(self, x: Vector) -> set[Function]:
        """The functions that a vector is computed from, other than through the layers that are known."""
        todo, found = [x], set[Function]()
        while todo:
            v = todo.pop()
            if v in self._given:
                continue
            if isinstance(v, Function) and v not in found:
                found.add(v)
            todo += inner_vectors(v)
        return found

    # -- what a layer reads ----------------------------------------------------------------------------

    def _over_token(self, node: Node | None, weights: Array, x: Vector) -> tuple[Array, Array, Vector]:
        """The first layer's weights over the embedding, and its bias; contexts have weights of their own."""
        if isinstance(x, TokenVector) and x.one_hot:
            return weights, np.zeros(len(weights)), x
        terms, bias = self._terms(x)
        others = [s for s in terms if s is not None]
        if None not in terms or any(not isinstance(s, Source) or s.kind != "context" for s in others):
            raise NotNative(f"{what(node)}, the first layer, does not read the token")
        self.contexts = [s.of for s in others if isinstance(s, Source)]
        self._context_weights = [_over(weights, terms[s]) for s in others]
        embedding = matrix(terms[None], self._ids)
        if others:
            offset = weights.astype(np.float64) @ bias
            own = embedding.any(axis=1)  # the rows of contexts are zeros
            self._embedding = embedding[own].T
            return weights[:, own], offset, x
        self._embedding = (embedding + bias[:, None]).astype(np.float32).T if bias.any() else embedding.T
        return weights, np.zeros(len(weights)), x

    def _over_top(self, node: Node | None, weights: Array, x: Vector) -> tuple[Array, Array, Vector]:
        """Weights over x as weights and a bias over what the last layer gives: its h, or h plus what entered it."""
        self._dense_below(x)
        last = self.layers[-1]
        offset = np.zeros(len(weights))
        while isinstance(x, Sum) and len(x.parts) == 1 and x not in self._given:
            ((factor, inner),) = x.parts
            offset = offset + weights.astype(np.float64) @ x.bias
            weights, x = _over(weights, factor), inner
        if x in last.after[:1]:
            return weights, offset, x
        if isinstance(x, Sum) and x not in self._given and (h := self._residual(x, last)):
            if last is self.layers[0] and (self.contexts or self._embedding is None):
                raise NotNative(f"{what(node)} adds to a layer the one-hot vectors or contexts that it reads")
            self.layers[-1] = replace(last, native=replace(last.native, residual=True))
            return weights, offset, h
        terms, bias = self._terms(x)
        if set(terms) != {last.after[0]}:
            raise NotNative(f"{what(node)} reads more than the layer before it")
        offset = offset + weights.astype(np.float64) @ bias
        return _over(weights, terms[last.after[0]]), offset, last.after[0]

    def _residual(self, x: Sum, last: ReadLayer) -> Vector | None:
        """X, if it is what the last layer gives plus what it reads."""
        h = last.after[0]
        rest = [(factor, v) for factor, v in x.parts if v is not h]
        plain = len(rest) < len(x.parts) and all(f is None for f, v in x.parts if v is h)
        return x if plain and same(combined(rest, x.bias), last.x) else None

    # -- linear functions ------------------------------------------------------------------------------

    def _terms(self, v: Vector) -> tuple[Terms, Array]:
        """The factor of each source, and the bias."""
        bias = np.zeros(v.size)
        if v in self._given or isinstance(v, Source):
            return {v: None}, bias
        if isinstance(v, TokenVector):
            return {None: None if v.one_hot else self._values(v)}, bias
        if isinstance(v, Function):
            return {None: self._values(v)}, bias
        if isinstance(v, Joined):
            return self._joined_terms(v)
        assert isinstance(v, Sum)
        terms: Terms = {}
        bias = v.bias
        for factor, inner in v.parts:
            found, added = self._terms(inner)
            bias = bias + (added if factor is None else matrix(factor, inner.size) @ added)
            for source, own in found.items():
                total = times(factor, own)
                terms[source] = total if source not in terms else _sum(terms[source], total, self._width(source))
        return terms, bias

    def _joined_terms(self, v: Joined) -> tuple[Terms, Array]:
        found = [(self._terms(piece), piece.size) for piece in v.pieces]
        terms: Terms = {}
        for source in {s: None for (own, _), _ in found for s in own}:
            width = self._width(source)
            rows = [matrix(own[source], width) if source in own else np.zeros((n, width), np.float32) for (own, _), n in found]  # fmt: skip
            terms[source] = np.concatenate(rows)
        return terms, np.concatenate([bias for (_, bias), _ in found])

    def _width(self, source: Vector | None) -> int:
        return self._ids if source is None else source.size

    def _values(self, v: Vector) -> Array:
        """A function of the token alone for each id, [size, ids]."""
        if isinstance(v, TokenVector):
            table = v.table if v.table is not None else np.asarray(v.values(np.arange(self._ids)), np.float32)
            return np.broadcast_to(table, (self._ids, v.size)).T
        assert isinstance(v, Function)
        inputs = []
        for x in v.inputs:
            terms, bias = self._terms(x)
            inputs.append(matrix(terms[None], self._ids) + bias[:, None] if terms else bias[:, None])
        return applied(v, inputs).astype(np.float32)


def applied(v: Function, inputs: Sequence[Array]) -> Array:
    """A function of numbers, computed."""
    x = np.asarray(inputs[0], np.float64)
    if v.name == "mul":
        return x * inputs[1]
    return np.clip(x, v.alpha, v.beta) if v.name == "clip" else ACTIVATIONS[v.name](x, v.alpha, v.beta)


def _over(weights: Array, factor: Factor) -> Array:
    found = times(weights, factor)
    assert found is not None
    return found


def _sum(a: Factor, b: Factor, width: int) -> Array:
    return matrix(a, width) + matrix(b, width)
