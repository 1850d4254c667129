"""Lower the recurrent layers of a step graph to plain operators, for devices and for int8.

onnxruntime's CUDA kernels of LSTM, GRU and RNN are cuDNN's. These have no peepholes, no `clip`, no activations but
the usual ones and no `linear_before_reset=0`. A layer that needs one of these would run on the CPU, and its states
would be copied each way at every step. Besides, cuDNN's kernels are made for sequences, and a step needs
little: one product with the state, one with the input, and elementwise operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.model.contract.contract import Contract
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array
from decoding.model.passes.fold_embedding import fold_embedding
from decoding.model.passes.recurrent_cells import GATES, Layer, Writer, read_layer, why_not_plain, write_cell
from decoding.model.roles.infer import recurrent_path


@dataclass(frozen=True)
class Steps:
    """A graph whose recurrent layers are plain operators for one token; what became of which layer, for describe()."""

    graph: Graph
    done: tuple[str, ...]
    left: tuple[str, ...]


def plain_steps(graph: Graph, contract: Contract, dtype: np.dtype[Any] | None = None) -> Steps:
    """A copy with the layers between token and logits written as plain operators, the first fed from a table where it can be.

    Args:
        dtype: layers of other numbers stay as they are; None: of any.
    """
    layers = [node for node in graph.nodes if node.op in GATES]
    if contract.window is not None:
        return Steps(graph.copy(), (), tuple(f"{what(node)} (it runs over windows)" for node in layers))
    steps = fold_embedding(graph, contract) or graph.copy()
    with steps.recorded("lower recurrent layers"):
        for node in recurrent_path(steps, contract.token.name, contract.logits.name):
            layer = read_layer(steps, node) if node.op in GATES and not why_not_plain(steps, node) else None
            if layer is not None and dtype in (None, layer.R.dtype):
                write_cell(steps, layer, _from_product(layer))
        steps.keep_outputs([port.name for port in steps.outputs])
    kept = {what(node) for node in steps.nodes}
    done = tuple(name for node in layers if (name := what(node)) not in kept)
    missing = f"no {dtype or 'constant'} weights of one direction"
    left = (f"{what(node)} ({why_not_plain(graph, node) or missing})" for node in layers if what(node) in kept)
    return Steps(steps, done, tuple(left))


def what(node: Node) -> str:
    """What to call an operator in a note."""
    return f"{node.op} {node.label}"


def _from_product(layer: Layer) -> Callable[[Writer, Array], str]:
    """Writes x W + bias for the input x [1, B, I].

    It enters the product with the state as what that is added to, as a folded table's rows do: one formula for both, where
    [x, h] times [W; R] would take a Concat in place of the second Gemm.
    """
    x, weights = layer.node.input(0), layer.W

    def write_product(write: Writer, bias: Array) -> str:
        rows = write("Reshape", x, write.constant(np.array([-1, weights.shape[1]])))
        return write.product(rows, weights, write.constant(bias))

    return write_product


def left_to_the_cpu(graph: Graph, contract: Contract) -> list[str]:
    """The layers that onnxruntime's CUDA provider has no kernel for: cuDNN's have few options.

    The conditions are those of onnxruntime's cuda_execution_provider.cc (`RNNNeedFallbackToCPU`).
    """
    path = recurrent_path(graph, contract.token.name, contract.logits.name)
    return [what(node) for node in path if node.op in STATE_SLOTS and not _cudnn_has(node)]


_CUDNN = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def _cudnn_has(node: Node) -> bool:
    if any(node.attribute(name) for name in ("activation_alpha", "activation_beta", "clip", "input_forget")):
        return False
    if node.op not in _CUDNN:
        return False
    defaults = _CUDNN[node.op]
    names = [n.decode() if isinstance(n, bytes) else n for n in node.attribute("activations", defaults)]
    if [n.lower() for n in names] != defaults or (node.op == "GRU" and not node.attribute("linear_before_reset", 0)):
        return False
    return not (node.op == "LSTM" and node.input(7))
