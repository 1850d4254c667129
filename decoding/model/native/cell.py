"""A recurrent layer of a graph as the native step takes it."""

from __future__ import annotations

import numpy as np

from decoding.kernels.native_layers import Activation, NativeLayer
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.passes.recurrent_cells import Layer, activation_parameters

_ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "affine": "affine", "hardsigmoid": "hard_sigmoid",
                "leakyrelu": "leaky_relu", "scaledtanh": "scaled_tanh", "softsign": "softsign"}  # fmt: skip


class NotNative(Exception):
    """What in a graph the native step does not have."""


def what(node: Node) -> str:
    """An operator in words: what it is, and its name."""
    return f"{node.op} {node.label}"


def native_layer(layer: Layer, weights: Array, offset: Array) -> NativeLayer:
    """The layer as the kernels take it; `offset` is added to the gates."""
    node, hidden = layer.node, layer.hidden
    activations = []
    for name, parameters in activation_parameters(node):
        if name not in _ACTIVATIONS:
            raise NotNative(f"{what(node)} has the activation {name}")
        activations.append(Activation(_ACTIVATIONS[name], parameters.get("alpha", 0.0), parameters.get("beta", 0.0)))
    bias, whole = layer.bias.astype(np.float64), bool(node.attribute("linear_before_reset", 0))
    total, state, candidate, candidate_bias = bias.sum(0) + offset, layer.R, None, None
    if node.op == "GRU":
        state, candidate = layer.R[: 2 * hidden], layer.R[2 * hidden :]
        if whole:
            total, candidate_bias = total - np.r_[np.zeros(2 * hidden), bias[1, 2 * hidden :]], bias[1, 2 * hidden :]
            total[2 * hidden :] = bias[0, 2 * hidden :] + offset[2 * hidden :]
    return NativeLayer(
        cell=node.op,  # type: ignore[arg-type]
        hidden=hidden,
        input=weights,
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
