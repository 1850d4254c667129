"""Recurrent layers as plain operators for single steps: what a device runs.

onnxruntime's CUDA kernels of LSTM, GRU and RNN are cuDNN's. These have no peepholes, no `clip` and no other activations, so
that such a layer would run on the CPU with a copy of the states each way at every step; and they are made for sequences. A
step is one product with the state, one with the input, and what is done to each number, which CUDA graphs replay at once.
Whole sequences (prompts, scores) stay with the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from decoding.model.cells import Cell, Writer, read_cell, write_cell
from decoding.model.contract import Contract
from decoding.model.graph import Graph
from decoding.model.node import Node
from decoding.model.ports import STATE_SLOTS, Array
from decoding.model.proof import same_step
from decoding.model.roles import recurrent_path
from decoding.model.session import Session


def lowered_step(graph: Graph, contract: Contract, start: Callable[[Graph], Session]) -> tuple[Graph, list[str]]:
    """The graph with its recurrent layers written out, and the labels of those that could not be.

    What is written out is compared with the graph on steps of one row and of several; where it differs all stay as they were.
    """
    lowered, left = lower_layers(graph, contract)
    if lowered is graph or same_step(start(graph), start(lowered), contract):
        return lowered, left
    return graph, [node.label for node in _layers(graph, contract)]


def lower_layers(graph: Graph, contract: Contract) -> tuple[Graph, list[str]]:
    """A copy whose recurrent layers are plain operators for one token (the graph itself where none is), and what is left."""
    layers = _layers(graph, contract)
    cells = [cell for layer in layers if (cell := read_cell(graph, layer)) is not None]
    left = [layer.label for layer in layers if layer.label not in {cell.layer.label for cell in cells}]
    if not cells:
        return graph, left
    lowered = graph.copy()
    for cell in cells:
        layer = next(n for n in lowered.nodes if n.label == cell.layer.label and n.op == cell.layer.op)
        write_cell(lowered, replace(cell, layer=layer), "lowered", _product(cell, layer.input(0)))
    lowered.forget_shapes()
    lowered.keep_outputs([p.name for p in lowered.outputs])
    return lowered, left


def _layers(graph: Graph, contract: Contract) -> list[Node]:
    path = recurrent_path(graph, contract.token.name, contract.logits.name)
    return [node for node in path if node.op in STATE_SLOTS]


def _product(cell: Cell, x: str) -> Callable[[Writer, Array], str]:
    """Writes x W + bias for the input x [1, B, I].

    It enters the product with the state as what that is added to, as a folded table's rows do: one formula for both, where
    [x, h] times [W; R] would take a Concat in place of the second Gemm.
    """

    def from_input(write: Writer, bias: Array) -> str:
        weights = np.ascontiguousarray(cell.weights["W"].T)
        rows = write("Reshape", x, write.constant(np.array([-1, len(weights)])))
        return write("Gemm", rows, write.constant(weights), write.constant(np.ascontiguousarray(bias)))

    return from_input


def layers_left_to_the_cpu(graph: Graph, contract: Contract) -> list[str]:
    """Labels of the layers that onnxruntime's CUDA provider has no kernel for: cuDNN's have few options.

    The conditions are those of onnxruntime's cuda_execution_provider.cc (`RNNNeedFallbackToCPU`).
    """
    return [node.label for node in _layers(graph, contract) if not _cudnn_has(node)]


def _cudnn_has(node: Node) -> bool:
    if any(node.attribute(name) for name in ("activation_alpha", "activation_beta", "clip", "input_forget")):
        return False
    defaults = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}[node.op]
    names = [n.decode() if isinstance(n, bytes) else n for n in node.attribute("activations", defaults)]
    if [n.lower() for n in names] != defaults or (node.op == "GRU" and not node.attribute("linear_before_reset", 0)):
        return False
    return not node.input(7)
