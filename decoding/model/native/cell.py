"""A recurrent or dense layer of a graph: as it was read, and as the kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from decoding.kernels.native.layers import Activation, NativeLayer
from decoding.model.graph.node import Node
from decoding.model.native.vectors import NotNative, Source, Vector, what
from decoding.model.passes.recurrent_cells import Layer, activation_parameters

# By operator in lower case: the kernels' name, and the parameters where the operator has no others.
ACTIVATIONS = {"sigmoid": ("sigmoid", 0.0, 0.0), "tanh": ("tanh", 0.0, 0.0), "relu": ("relu", 0.0, 0.0), "affine": ("affine", 1.0, 0.0),
               "hardsigmoid": ("hard_sigmoid", 0.2, 0.5), "leakyrelu": ("leaky_relu", 0.01, 0.0),
               "scaledtanh": ("scaled_tanh", 1.0, 1.0), "softsign": ("softsign", 0.0, 0.0)}  # fmt: skip


@dataclass(frozen=True)
class OperatorLayer:
    """An LSTM, GRU or RNN operator: what it reads, the states that it starts from and those that it gives."""

    layer: Layer
    x: Vector
    states: Sequence[Source]
    after: Sequence[Vector]


@dataclass
class ReadLayer:
    """A layer as it was read from a graph.

    Attributes:
        node: what to call it in messages.
        x: the vector that its input weights multiply.
        native: the layer; its input weights and bias are those over `x`.
        states: those that it starts from, h first.
        after: the vectors that it gives for them; of a dense layer its output.
    """

    node: Node | None
    x: Vector
    native: NativeLayer
    states: Sequence[Source]
    after: Sequence[Vector] = field(default=())


def from_operator(read: OperatorLayer) -> ReadLayer:
    """The layer of an ONNX operator.

    Raises:
        NotNative: it has an activation that the kernels lack.
    """
    layer, node, hidden = read.layer, read.layer.node, read.layer.hidden
    activations = []
    for name, parameters in activation_parameters(node):
        if name not in ACTIVATIONS:
            raise NotNative(f"{what(node)} has the activation {name}")
        activations.append(Activation(ACTIVATIONS[name][0], parameters.get("alpha", 0.0), parameters.get("beta", 0.0)))
    bias, whole = layer.bias.astype(np.float64), bool(node.attribute("linear_before_reset", 0))
    total, state, candidate, candidate_bias = bias.sum(0), layer.R, None, None
    if node.op == "GRU":
        state, candidate = layer.R[: 2 * hidden], layer.R[2 * hidden :]
        if whole:
            candidate_bias = bias[1, 2 * hidden :]
            total[2 * hidden :] = bias[0, 2 * hidden :]
    native = NativeLayer(
        cell=node.op,  # type: ignore[arg-type]
        hidden=hidden,
        input=layer.W,
        bias=total,
        state=state,
        activations=activations,
        candidate=candidate,
        candidate_bias=candidate_bias,
        peepholes=layer.peepholes,
        clip=float(node.attribute("clip", 0.0)),
        coupled=bool(node.attribute("input_forget", 0)),
        linear_before_reset=whole,
    )
    return ReadLayer(node, read.x, native, read.states, read.after)
