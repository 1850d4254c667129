"""A faster graph for single steps: embedding and input weights in one table.

Where ids go through an embedding straight into an LSTM or GRU, ``table = embedding @ W.T + bias`` saves the product with the
input at every step. ONNX's layers take no such table, so the cell of that layer is written as plain operators for one
step; whole sequences (prompts, scores) stay with the unfolded graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from decoding.model.cells import GATES, Cell, Writer, read_cell, write_cell
from decoding.model.contract import Contract
from decoding.model.graph import Graph
from decoding.model.node import Node
from decoding.model.ports import Array
from decoding.model.proof import same_step
from decoding.model.session import Session

# A rule and no measurement at load, so that the same file is always run by the same graph: bench/test_folding.py shows that
# narrower layers lose at batch 1, and that from here on every batch size wins.
SMALLEST_HIDDEN = 128
# A larger table costs more in loading than its steps save.
LARGEST_TABLE = 16 << 20  # bytes

# What re-arranges the embedded ids on their way into the layer; for one step it changes nothing in memory.
_ARRANGING = frozenset({"Identity", "Transpose", "Squeeze", "Unsqueeze", "Reshape"})


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
    return folded if same_step(session, folded.session, contract) else None


def fold_embedding(graph: Graph, contract: Contract) -> Graph | None:
    """A copy of the step graph for runs of one token, its first LSTM or GRU fed from a table; None where nothing can be folded."""
    found = _find(graph, contract)
    if found is None:
        return None
    folded = graph.copy()
    cell, embedding = found
    layer = next(n for n in folded.nodes if n.label == cell.layer.label and n.op == cell.layer.op)

    def from_table(write: Writer, bias: Array) -> str:
        ids = write("Reshape", contract.token.name, write.constant(np.array([-1])))
        table = (embedding @ cell.weights["W"].T + bias).astype(np.float32)
        return write("Gather", write.constant(table), ids)

    write_cell(folded, replace(cell, layer=layer), "folded", from_table)
    folded.keep_outputs([p.name for p in folded.outputs])
    return folded


def _find(graph: Graph, contract: Contract) -> tuple[Cell, Array] | None:
    """The plain LSTM or GRU layer that embedded ids go straight into, and the embedding."""
    if graph.opset < 10:  # Slice took attributes then
        return None
    for layer in graph.nodes:
        if layer.op not in ("LSTM", "GRU") or layer.input(7):
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
        if embedding.shape[0] * GATES[layer.op] * hidden * 4 > LARGEST_TABLE:
            continue
        cell = read_cell(graph, layer)
        if cell is not None and cell.dtype == np.float32:
            return cell, embedding
    return None


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
