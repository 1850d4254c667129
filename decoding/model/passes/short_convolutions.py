"""Run the convolution over a state's last inputs by onnxruntime's own operator for it.

Mamba and its relatives mix the last few inputs of each channel: a depthwise Conv over four or five positions at every
step. onnxruntime's Conv multiplies matrices of each channel by itself; CausalConvWithState reads the positions before the
kernel's last one as its state, and gives the same sums.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import graph_pass
from decoding.model.graph.node import Node
from decoding.model.passes.recurrent_cells import Writer
from decoding.model.verify.equivalence import same_step

_ORT = "com.microsoft"
# Slice takes its bounds as inputs from here on.
_SMALLEST_OPSET = 10
_END = np.iinfo(np.int64).max


def with_short_convolutions(program: StepProgram, open_session: OpenSession) -> StepProgram:
    """The program with its depthwise convolutions rewritten, where there are some and the scores stay the same."""
    graph = program.graph.copy()
    if not rewrite_convolutions(graph):
        return program
    session = open_session(graph)
    if not same_step(program.session, session, program.contract):
        return program
    return replace(program, graph=graph, session=session)


@graph_pass("short convolutions")
def rewrite_convolutions(graph: Graph) -> int:
    """Rewrite the depthwise convolutions over [batch, channels, time], in place, and return their number."""
    found = [node for node in graph.nodes if _is_depthwise(graph, node)]
    if not found or graph.opset < _SMALLEST_OPSET:
        return 0
    graph.use_operators(_ORT, 1)
    for node in found:
        _rewrite(graph, node)
    graph.keep_outputs([port.name for port in graph.outputs])
    return len(found)


def _is_depthwise(graph: Graph, node: Node) -> bool:
    """Return whether a Conv is one of each channel by itself, over every position that the whole kernel fits."""
    weights = graph.constant(node.input(1)) if node.op == "Conv" else None
    if weights is None or weights.ndim != 3 or weights.dtype != np.float32:
        return False
    channels, width, taps = weights.shape
    plain = node.attribute("auto_pad", "NOTSET") == "NOTSET" and not any(node.attribute("pads", [0, 0]))
    near = node.attribute("strides", [1]) == [1] and node.attribute("dilations", [1]) == [1]
    return plain and near and width == 1 and taps > 1 and node.attribute("group", 1) == channels


def _rewrite(graph: Graph, node: Node) -> None:
    """The positions before the kernel's last one are the state, the others the input."""
    weights = graph.constant(node.input(1))
    assert weights is not None
    write, x, output = Writer(graph, node), node.input(0), node.outputs[0]
    node.rename_output(0, f"{output}/unused")
    start, split, end, time = (write.constant(np.array([v])) for v in (0, weights.shape[2] - 1, _END, 2))
    before, now = write("Slice", x, start, split, time), write("Slice", x, split, end, time)
    kept = [f"{output}/last"]
    write("CausalConvWithState", now, node.input(1), node.input(2), before, output=output, more=kept, domain=_ORT)
    graph.edited()
