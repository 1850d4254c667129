"""A faster graph for single steps: embedding and input weights in one table.

Where ids go through an embedding straight into an LSTM or GRU, ``table = embedding @ W.T + bias`` saves the product with the
input at every step. ONNX's layers take no such table, so the cell of that layer is written as plain operators for one
step; whole sequences (prompts, scores) stay with the unfolded graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from decoding.model.contract import Contract
from decoding.model.graph import Graph
from decoding.model.node import Node
from decoding.model.ports import STATE_SLOTS, Array
from decoding.model.session import Session

# A rule and no measurement at load, so that the same file is always run by the same graph: bench/test_folding.py shows that
# narrower layers lose at batch 1, and that from here on every batch size wins.
SMALLEST_HIDDEN = 128
# A larger table costs more in loading than its steps save.
LARGEST_TABLE = 16 << 20  # bytes

# What re-arranges the embedded ids on their way into the layer; for one step it changes nothing in memory.
_ARRANGING = frozenset({"Identity", "Transpose", "Squeeze", "Unsqueeze", "Reshape"})


@dataclass(frozen=True)
class _Foldable:
    layer: Node
    embedding: Array
    weights: dict[str, Array]
    sizes: tuple[int, int]  # of the vocabulary, of the hidden state


@dataclass(frozen=True)
class Folded:
    """The folded graph and a session over it."""

    graph: Graph
    session: Session


def folded_step(session: Session, graph: Graph, contract: Contract, start: Callable[[Graph], Session]) -> Folded | None:
    """The folded graph, if there is one; it is compared with `session`'s on a step of one row and of several."""
    graph_for_steps = fold_embedding(graph, contract)
    if graph_for_steps is None:
        return None
    folded = Folded(graph_for_steps, start(graph_for_steps))
    return folded if all(_same(session, folded.session, contract, batch) for batch in (1, 5)) else None


def _same(a: Session, b: Session, contract: Contract, batch: int) -> bool:
    """Do both give the same scores and states, of random ids and a state that is not zero?"""
    ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (batch, 1))
    feeds = {**contract.feeds(ids), **{s.input: s.start(batch) + s.dtype.type(0.1) for s in contract.states}}
    names = [contract.logits.name, *(s.output for s in contract.states)]
    pairs = zip(a.run(feeds, names), b.run(feeds, names), strict=True)
    return all(x.shape == y.shape and np.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True) for x, y in pairs)


def fold_embedding(graph: Graph, contract: Contract) -> Graph | None:
    """A copy of the step graph for runs of one token, its first LSTM or GRU fed from a table; None where nothing can be folded."""
    found = _find(graph, contract)
    if found is None:
        return None
    folded = graph.copy()
    layer = next(n for n in folded.nodes if n.label == found.layer.label and n.op == found.layer.op)
    _write_cell(folded, layer, found, contract.token.name)
    folded.keep_outputs([p.name for p in folded.outputs])
    return folded


def _find(graph: Graph, contract: Contract) -> _Foldable | None:
    """The plain LSTM or GRU layer that embedded ids go straight into."""
    if graph.opset < 10:  # Slice took attributes then
        return None
    for layer in graph.nodes:
        slots = [slot for slot, _ in STATE_SLOTS.get(layer.op, {}).values()]
        if layer.op not in _CELLS or layer.input(4) or layer.input(7) or not all(layer.input(slot) for slot in slots):
            continue
        if any(layer.attribute(name) for name in ("activations", "clip", "input_forget", "layout")):
            continue
        gather = _behind(graph, layer.input(0))
        if gather is None or gather.op != "Gather" or gather.attribute("axis", 0) != 0:
            continue
        embedding, hidden = graph.constant(gather.input(0)), layer.attribute("hidden_size", 0)
        straight = _behind(graph, gather.input(1)) is None and _root(graph, gather.input(1)) == contract.token.name
        if not straight or embedding is None or embedding.ndim != 2 or hidden < SMALLEST_HIDDEN:
            continue
        if embedding.shape[0] * _GATES[layer.op] * hidden * 4 > LARGEST_TABLE:
            continue
        weights = _values(graph, [layer.input(slot) for slot in (1, 2, 3) if layer.input(slot)])
        if weights is None or weights[0].shape[0] != 1 or weights[0].dtype != np.float32:
            continue
        w, r = weights[0][0], weights[1][0]
        bias = weights[2][0] if len(weights) > 2 else np.zeros(2 * w.shape[0], w.dtype)
        return _Foldable(layer, embedding, {"W": w, "R": r, "B": bias}, (embedding.shape[0], hidden))
    return None


def _values(graph: Graph, names: list[str]) -> list[Array] | None:
    """The tensors' values where no input is needed for them: exporters re-arrange weights in the graph."""
    values = [graph.constant(name) for name in names]
    if any(value is None for value in values):
        part = graph.part(names)
        return None if part.inputs else Session(part, threads=1).run({}, names)
    return [value for value in values if value is not None]


def _behind(graph: Graph, name: str) -> Node | None:
    """The node that makes a tensor, before it was re-arranged."""
    node = graph.producer(name)
    while node is not None and node.op in _ARRANGING:
        node = graph.producer(node.input(0))
    return node


def _root(graph: Graph, name: str) -> str:
    while (node := graph.producer(name)) is not None:
        name = node.input(0)
    return name


class _Writer:
    """Writes operators in a layer's place, with names of the layer's own."""

    def __init__(self, graph: Graph, layer: Node) -> None:
        self._graph, self._label, self._place = graph, layer.label, graph.place(layer)
        self._count = 0

    def constant(self, value: Array) -> str:
        self._count += 1
        return self._graph.add_initializer(f"{self._label}/folded{self._count}", value)

    def __call__(self, op: str, *inputs: str, to: str | None = None, **attributes: object) -> str:
        self._count, self._place = self._count + 1, self._place + 1
        output = to or f"{self._label}/folded{self._count}"
        return self._graph.add_node(op, list(inputs), output, at=self._place - 1, **attributes)

    def columns(self, tensor: str, width: int, start: int, end: int) -> str:
        """The parts `start` to `end` of a tensor [B, parts * width]."""
        bounds = (self.constant(np.array([v])) for v in (start * width, end * width, 1))
        return self("Slice", tensor, *bounds)


def _write_cell(graph: Graph, layer: Node, found: _Foldable, token: str) -> None:
    """Put plain operators in the layer's place, for one token."""
    write, width = _Writer(graph, layer), found.sizes[1]
    ids = write("Reshape", token, write.constant(np.array([-1])))
    state = write.constant(np.array([-1, width]))
    states = [write("Reshape", layer.input(slot), state) for slot, _ in STATE_SLOTS[layer.op].values()]
    after = _CELLS[layer.op](write, layer, found, ids, states)
    outputs = [*layer.outputs, "", ""][:3]
    for index, (name, value) in enumerate(zip(outputs, (after[0], *after), strict=False)):
        if name:
            layer.rename_output(index, f"{layer.label}/unfolded{index}")
            ones = [1, 1] if index == 0 else [1]
            write("Reshape", value, write.constant(np.array([*ones, -1, width])), to=name)
    graph.edited()


def _table(write: _Writer, found: _Foldable, bias: Array) -> str:
    return write.constant((found.embedding @ found.weights["W"].T + bias).astype(np.float32))


def _lstm(write: _Writer, layer: Node, found: _Foldable, ids: str, states: list[str]) -> list[str]:
    """C' = f*c + i*g, h' = o*tanh(c'); ONNX's order of gates is i, o, f, g."""
    (h, c), width = states, found.sizes[1]
    from_input = write("Gather", _table(write, found, found.weights["B"].reshape(2, -1).sum(0)), ids)
    recurrent = write.constant(np.ascontiguousarray(found.weights["R"].T))
    gates = write("Gemm", h, recurrent, from_input)
    opened = [write("Sigmoid", write.columns(gates, width, k, k + 1)) for k in range(3)]
    candidate = write("Tanh", write.columns(gates, width, 3, 4))
    after_c = write("Add", write("Mul", opened[2], c), write("Mul", opened[0], candidate))
    return [write("Mul", opened[1], write("Tanh", after_c)), after_c]


def _gru(write: _Writer, layer: Node, found: _Foldable, ids: str, states: list[str]) -> list[str]:
    """H' = n + z*(h - n), n = tanh(x + r*(hR + b)) or tanh(x + (r*h)R + b); ONNX's order of gates is z, r, n."""
    (h,), width = states, found.sizes[1]
    of_input, of_state = found.weights["B"].reshape(2, -1)
    from_input = write("Gather", _table(write, found, of_input), ids)
    recurrent, bias = np.ascontiguousarray(found.weights["R"].T), of_state.astype(np.float32)
    cut = 2 * width

    def gemm(left: str, start: int, end: int | None) -> str:
        return write(
            "Gemm", left, write.constant(np.ascontiguousarray(recurrent[:, start:end])), write.constant(bias[start:end])
        )

    whole = bool(layer.attribute("linear_before_reset", 0))
    from_state = gemm(h, 0, None if whole else cut)
    z, r = (
        write("Sigmoid", write("Add", *(write.columns(t, width, k, k + 1) for t in (from_input, from_state))))
        for k in (0, 1)
    )
    own = write("Mul", r, write.columns(from_state, width, 2, 3)) if whole else gemm(write("Mul", r, h), cut, None)
    n = write("Tanh", write("Add", write.columns(from_input, width, 2, 3), own))
    return [write("Add", n, write("Mul", z, write("Sub", h, n)))]


_GATES = {"LSTM": 4, "GRU": 3}
_CELLS = {"LSTM": _lstm, "GRU": _gru}
