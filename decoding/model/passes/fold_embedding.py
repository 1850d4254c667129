"""Fold the embedding: a faster graph for single steps, with embedding and input weights in one table.

Where ids go through an embedding straight into an LSTM or GRU, ``table = embedding @ W.T + bias`` saves the product with the
input at every step. ONNX's layers take no such table, so the cell of that layer is written as plain operators for one
step (recurrent_cells.py); whole sequences (prompts, scores) stay with the unfolded graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from decoding.model.contract.contract import Contract
from decoding.model.contract.program import FoldedStep, OpenSession, StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.passes.recurrent_cells import GATES, Layer, Writer, read_layer, why_not_plain, write_cell
from decoding.model.runtime.session import constant_values
from decoding.model.verify.equivalence import same_step

# A rule and no measurement at load, so that the same file is always run by the same graph: bench/test_folding.py shows that
# narrower layers lose at batch 1, and that from here on every batch size wins.
SMALLEST_HIDDEN = 128
# A larger table costs more in loading than its steps save.
LARGEST_TABLE = 16 << 20  # bytes

# Operators that re-arrange the embedded ids before the layer; for one step they change nothing in memory.
_ARRANGING = frozenset({"Identity", "Transpose", "Squeeze", "Unsqueeze", "Reshape"})


@dataclass(frozen=True)
class _Foldable:
    layer: Layer
    embedding: Array


def with_folded_step(program: StepProgram, open_session: OpenSession) -> StepProgram:
    """The program with a folded graph for single steps, where there is one and it gives the same scores."""
    graph = fold_embedding(program.graph, program.contract)
    if graph is None:
        return program
    folded = FoldedStep(graph, open_session(graph))
    if not same_step(program.session, folded.session, program.contract):
        return program
    note = "single steps take the product of embedding and input weights from one table"
    return replace(program, folded=folded).with_note(note)


def fold_embedding(graph: Graph, contract: Contract) -> Graph | None:
    """A copy of the step graph for runs of one token, its first LSTM or GRU fed from a table; None where nothing can be folded."""
    found = _find(graph, contract)
    if found is None:
        return None
    folded = graph.copy()
    node = next(n for n in folded.nodes if n.label == found.layer.node.label and n.op == found.layer.node.op)

    def from_table(write: Writer, bias: Array) -> str:
        ids = write("Reshape", contract.token.name, write.constant(np.array([-1])))
        table = (found.embedding @ found.layer.W.T + bias).astype(np.float32)
        return write("Gather", write.constant(table), ids)

    with folded.recorded("fold the embedding"):
        write_cell(folded, replace(found.layer, node=node), from_table)
        folded.keep_outputs([p.name for p in folded.outputs])
    return folded


def _find(graph: Graph, contract: Contract) -> _Foldable | None:
    """The first LSTM or GRU layer that reads embedded ids directly."""
    for node in graph.nodes:
        if node.op not in ("LSTM", "GRU") or why_not_plain(graph, node):
            continue
        gather = _maker(graph, node.input(0))
        if gather is None or gather.op != "Gather" or gather.attribute("axis", 0) != 0:
            continue
        straight = _maker(graph, gather.input(1)) is None and _root(graph, gather.input(1)) == contract.token.name
        hidden = node.attribute("hidden_size", 0)
        embedding = constant_values(graph, [gather.input(0)]) if straight and hidden >= SMALLEST_HIDDEN else None
        if embedding is None or embedding[0].ndim != 2:
            continue
        if len(embedding[0]) * GATES[node.op] * hidden * 4 > LARGEST_TABLE:
            continue
        layer = read_layer(graph, node)
        return None if layer is None or layer.R.dtype != np.float32 else _Foldable(layer, embedding[0])
    return None


def _maker(graph: Graph, name: str) -> Node | None:
    """The node that makes a tensor, apart from re-arranging."""
    node = graph.producer(name)
    while node is not None and node.op in _ARRANGING:
        node = graph.producer(node.input(0))
    return node


def _root(graph: Graph, name: str) -> str:
    while (node := graph.producer(name)) is not None:
        name = node.input(0)
    return name
