"""Runs of an exported graph over whole sequences: what stepping is compared with, a few positions at a time where they are large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.program import OpenSession
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.runtime.native import NativeSession
from decoding.model.runtime.session import Session

# Scores of one piece, in floats (16 MiB). The scores of a verification run over 256,000 words take 340 MiB, and several
# times that while onnxruntime computes them (issue 13).
_PIECE = 1 << 22

_POSITIONS, _SIZES = "decoding/positions", "decoding/sizes"


class Piece(NamedTuple):
    """Scores [B, some positions, V] of one run: `first` is the first position, of `total`."""

    scores: Array
    first: int
    total: int


def whole_run(session: Session | NativeSession, contract: Contract, ids: Array) -> Array:
    """Logits [B, T or 1, V] of one run over whole sequences `ids` [B, T], from the initial states."""
    return contract.logits.arrange(session.run(_feeds(contract, ids), [contract.logits.name])[0])


class WholeRuns:
    """Runs of the exported graph, with dynamic shapes and an int64 token.

    Args:
        contract: the original's contract: the same as the step graph's without the states that the original hides.
        open_session: opens a session over the graph as it is.
        open_brief: opens one that keeps no memory, over the graph that scores some positions.
    """

    def __init__(self, graph: Graph, contract: Contract, open_session: OpenSession, open_brief: OpenSession) -> None:
        self.name = graph.name
        self._graph, self._contract, self._open_session = graph, contract, open_session
        self._whole: Session | None = None
        self._some: _SomePositions | None = None
        if contract.logits.vocab_size * _LONGEST > _PIECE:
            self._some = some_positions(graph, contract, open_brief)

    def check(self, ids: Array) -> None:
        """Run over `ids`, and look at no scores.

        Raises:
            ModelError: the run failed.
        """
        if self._some is not None:
            if self._some.scores(ids, np.arange(1)) is not None:
                return
            self._some = None
        self._run(ids)

    def pieces(self, ids: Array) -> Iterator[Piece]:
        """The scores of a run over `ids` [B, T], position after position."""
        if self._some is None:
            scores = self._run(ids)
            yield Piece(scores, 0, scores.shape[1])
            return
        batch, length = ids.shape
        step = max(1, _PIECE // (batch * self._contract.logits.vocab_size))
        for first in range(0, length, step):
            # No name for the scores: this frame would hold them during the next run.
            yield Piece(self._again(ids, np.arange(first, min(first + step, length))), first, length)

    def _again(self, ids: Array, positions: Array) -> Array:
        scores = None if self._some is None else self._some.scores(ids, positions)
        if scores is None:
            raise ModelError(f"{self.name}: a run over tokens {list(ids.shape)}, which succeeded before, failed")
        return scores

    def _run(self, ids: Array) -> Array:
        if self._whole is None:
            self._whole = self._open_session(self._graph)
        return whole_run(self._whole, self._contract, ids)


# Rows and tokens of the longest run that is compared.
_LONGEST = 7 * 48


class _SomePositions:
    """A graph that computes the states of every position and scores some.

    Args:
        session: runs it; takes `weights` at each run.
        axis: counts the positions in the tensor that they are taken from; those of all sequences where `flat`.
        output: the scores.
    """

    def __init__(
        self, session: Session, contract: Contract, weights: Mapping[str, Array], axis: int, flat: bool, output: str
    ) -> None:
        self._session, self._contract, self._weights = session, contract, weights
        self._axis, self._flat, self._output = axis, flat, output

    def scores(self, ids: Array, positions: Array) -> Array | None:
        """Scores [B, positions, V] of a run over `ids`; None where the graph does not run so."""
        (batch, length), layout = ids.shape, self._contract.logits.layout
        wanted = positions
        if self._flat:
            rows = np.arange(batch)
            wanted = (rows[:, None] * length + positions if layout == "BTV" else positions[:, None] * batch + rows).ravel()  # fmt: skip
        feeds = {**self._weights, **_feeds(self._contract, ids), _POSITIONS: wanted}
        try:
            found, sizes = self._session.run(feeds, [self._output, _SIZES])
        except ModelError:
            return None
        if sizes[self._axis] != (batch * length if self._flat else length):
            return None
        if self._flat:
            found = found.reshape(*((batch, -1) if layout == "BTV" else (-1, batch)), found.shape[-1])
        return self._contract.logits.arrange(found)


def some_positions(graph: Graph, contract: Contract, open_session: OpenSession) -> _SomePositions | None:
    """The graph with a Gather of positions before its last product with weights; None where that cannot be told."""
    layout = contract.logits.layout
    if layout not in ("BTV", "TBV"):
        return None
    some, axis, name, flat = graph.copy(), layout.index("T"), contract.logits.name, False
    node = some.producer(name)
    while node is not None and node.op == "Identity":
        node = some.producer(node.input(0))
    if node is not None and node.op == "Reshape" and some.constant(node.input(0)) is None:
        # [rows of all sequences, V] made [B, T, V]: it only splits the first axis, which the number of rows tells.
        flat, axis, name = True, 0, node.input(0)
    found = _last_product(some, name, axis, 2 if flat else 3)
    if found is None:
        return None
    product, axis = found
    data, gathered = product.input(0), f"{product.input(0)}/decoding/some"
    some.add_input(_POSITIONS, np.int64, [None])
    some.add_node("Shape", [data], _SIZES, at=some.place(product))
    some.add_node("Gather", [data, _POSITIONS], gathered, at=some.place(product), axis=axis)
    product.set_input(0, gathered)
    some.edited()
    some.add_output(_SIZES, np.int64, [None])
    if flat:
        some.add_output(name, np.float32, [None, None])
    try:
        some.keep_outputs([name, _SIZES])
        weights = some.feed_weights()
        return _SomePositions(open_session(some), contract, weights, axis, flat, name)
    except ModelError:
        return None


def _last_product(graph: Graph, name: str, axis: int, rank: int) -> tuple[Node, int] | None:
    """The product with weights that the scores are made of one position at a time, and the axis that counts positions there."""
    while (node := graph.producer(name)) is not None:
        if node.op in ("MatMul", "Gemm"):
            weights = _weights(graph, node.input(1))
            plain = not node.attribute("transA", 0) and weights is not None and weights.ndim == 2
            bias = graph.constant(node.input(2)) if node.op == "Gemm" and node.input(2) else None
            plain = plain and (node.op == "MatMul" or not node.input(2) or (bias is not None and bias.ndim <= 1))
            return (node, axis) if plain and axis < rank - 1 else None
        if node.op in ("Softmax", "LogSoftmax"):
            if node.attribute("axis", -1 if graph.opset >= 13 else 1) not in (-1, rank - 1):
                return None
            name = node.input(0)
        elif node.op in ("Identity", "Cast", "Log"):
            name = node.input(0)
        elif node.op == "Transpose" and node.attribute("perm"):
            axis, name = node.attribute("perm")[axis], node.input(0)
        elif node.op in ("Add", "Sub", "Mul", "Div"):
            constants = [graph.constant(node.input(i)) for i in (0, 1)]
            if sum(c is None for c in constants) != 1 or any(c is not None and c.ndim > 1 for c in constants):
                return None
            name = node.input(0 if constants[0] is None else 1)
        else:
            return None
    return None


def _weights(graph: Graph, name: str) -> Array | None:
    """The constant that a tensor is, or that it re-arranges: weights that an embedding shares are transposed."""
    while (node := graph.producer(name)) is not None and node.op in ("Identity", "Transpose", "Cast"):
        name = node.input(0)
    return graph.constant(name)


def _feeds(contract: Contract, ids: Array) -> dict[str, Array]:
    return {**contract.feeds(ids), **contract.initial_states(len(ids), contract.probe_contexts(len(ids)))}
