"""A faster graph for single steps: embedding and input weights in one table.

Where ids go through an embedding straight into an LSTM, ``table = embedding @ W.T + bias`` saves the product with the
input at every step. ONNX's LSTM takes no such table, so the cell of that layer is written as plain operators for one
step; whole sequences (prompts, scores) stay with the unfolded graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from decoding.model.contract import Contract
from decoding.model.graph import Graph
from decoding.model.node import Node
from decoding.model.ports import Array
from decoding.model.session import Session

# A rule and no measurement at load, so that the same file is always run by the same graph: bench/test_folding.py shows that
# narrower layers lose at batch 1, and that from here on every batch size wins.
SMALLEST_HIDDEN = 96
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
    """A copy of the step graph for runs of one token, its first LSTM fed from a table; None where nothing can be folded."""
    found = _find(graph, contract)
    if found is None:
        return None
    folded = graph.copy()
    layer = next(n for n in folded.nodes if n.label == found.layer.label and n.op == "LSTM")
    _write_cell(folded, layer, found, contract.token.name)
    folded.keep_outputs([p.name for p in folded.outputs])
    return folded


def _find(graph: Graph, contract: Contract) -> _Foldable | None:
    """The plain LSTM layer that embedded ids go straight into."""
    if graph.opset < 10:  # Slice took attributes then
        return None
    for layer in graph.nodes:
        if layer.op != "LSTM" or layer.input(4) or layer.input(7) or not (layer.input(5) and layer.input(6)):
            continue
        if any(layer.attribute(name) for name in ("activations", "clip", "input_forget", "layout")):
            continue
        gather = _behind(graph, layer.input(0))
        if gather is None or gather.op != "Gather" or gather.attribute("axis", 0) != 0:
            continue
        ids = gather.input(1)
        source = _behind(graph, ids)
        straight = source is None and _root(graph, ids) == contract.token.name
        weights = _values(graph, [gather.input(0), *(layer.input(slot) for slot in (1, 2, 3) if layer.input(slot))])
        if not straight or weights is None:
            continue
        embedding, w, r = weights[:3]
        bias = weights[3] if len(weights) > 3 else np.zeros((1, 2 * w.shape[1]), w.dtype)
        small = embedding.ndim == 2 and embedding.shape[0] * w.shape[1] * 4 <= LARGEST_TABLE
        if small and r.shape[2] >= SMALLEST_HIDDEN and w.shape[0] == 1 and w.dtype == np.float32:
            return _Foldable(layer, embedding, {"W": w[0], "R": r[0], "B": bias[0]}, (embedding.shape[0], r.shape[2]))
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


def _write_cell(graph: Graph, layer: Node, found: _Foldable, token: str) -> None:
    """Put plain operators in the layer's place: c' = f*c + i*g, h' = o*tanh(c') (ONNX's order of gates is i, o, f, c)."""
    rows = found.weights["W"].shape[0]
    bias = found.weights["B"][:rows] + found.weights["B"][rows:]
    at = [graph.place(layer)]

    def constant(name: str, value: Array) -> str:
        return graph.add_initializer(f"{layer.label}/folded_{name}", value)

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        at[0] += 1
        return graph.add_node(op, inputs, name, at=at[0] - 1, **attributes)

    def inner(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        return node(op, inputs, f"{layer.label}/{name}", **attributes)

    table = constant("table", (found.embedding @ found.weights["W"].T + bias).astype(np.float32))
    recurrent = constant("recurrent", np.ascontiguousarray(found.weights["R"].T))
    flat, state = constant("flat", np.array([-1])), constant("state", np.array([-1, found.sizes[1]]))
    ids = inner("Reshape", [token, flat], "ids")
    h, c = (inner("Reshape", [layer.input(slot), state], name) for slot, name in ((5, "h"), (6, "c")))
    gates = inner("Gemm", [h, recurrent, inner("Gather", [table, ids], "from_input")], "gates")
    i, o, f, g = (
        inner("Slice", [gates, *(constant(f"{n}{k}", np.array([v])) for n, v in bounds)], f"gate{k}")
        for k, bounds in enumerate(
            (("start", k * found.sizes[1]), ("end", (k + 1) * found.sizes[1]), ("axis", 1)) for k in range(4)
        )
    )
    i, o, f = (inner("Sigmoid", [gate], f"open{k}") for k, gate in enumerate((i, o, f)))
    kept, added = inner("Mul", [f, c], "kept"), inner("Mul", [i, inner("Tanh", [g], "candidate")], "added")
    after_c = inner("Add", [kept, added], "c_after")
    after_h = inner("Mul", [o, inner("Tanh", [after_c], "c_shown")], "h_after")
    outputs = [*layer.outputs, "", ""][:3]
    shapes = (("y", [1, 1, -1]), ("h", [1, -1]), ("c", [1, -1]))
    for index, (name, value) in enumerate(zip(outputs, (after_h, after_h, after_c), strict=True)):
        if name:
            layer.rename_output(index, f"{layer.label}/unfolded{index}")
            shape = constant(f"shape_{shapes[index][0]}", np.array([*shapes[index][1], found.sizes[1]]))
            node("Reshape", [value, shape], name)
    graph.edited()
