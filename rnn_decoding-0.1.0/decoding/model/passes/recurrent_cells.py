"""One recurrent layer as plain operators for one token; folding, quantizing and devices replace layers by them.

The formulas are those of ONNX's operators as onnxruntime's CPU kernels read them: `clip` bounds the inputs of the
gates and of the candidate, not h; `input_forget` couples the gates; peepholes read the old c, except the output
gate's, which reads the new c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array
from decoding.model.runtime.session import constant_values

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@dataclass(frozen=True)
class Layer:
    """A layer whose states are inputs and outputs of the graph, and its weights.

    Attributes:
        W, R: [gates * hidden, inputs] and [gates * hidden, hidden], in ONNX's order of gates.
        bias: of the input and of the state, [2, gates * hidden].
        peepholes: [3, hidden] for i, o and f, or None.
    """

    node: Node
    W: Array
    R: Array
    bias: Array
    peepholes: Array | None

    @property
    def hidden(self) -> int:
        """Size of the hidden state."""
        return int(self.R.shape[1])


# What a layer's input adds to its gates, [batch, gates * hidden]: the product with W, and this bias.
FromInput = Callable[["Writer", Array], str]


def why_not_plain(graph: Graph, node: Node) -> str | None:
    """Why a layer cannot be written as plain operators, from what is cheap to look at; None where nothing is in the way."""
    if node.input(4):
        return "sequence lengths"
    if not all(node.input(slot) for slot, _ in STATE_SLOTS[node.op].values()):
        return "a state that is not exposed"
    if node.attribute("layout", 0):
        return "layout"
    if node.attribute("direction", "forward") != "forward":
        return str(node.attribute("direction"))
    names = {name.lower() for name in _activation_names(node)}
    if not names <= set(_PARAMETERS) or ("thresholdedrelu" in names and graph.opset < 10):
        return "other activations"
    return None


def read_layer(graph: Graph, node: Node) -> Layer | None:
    """The layer with its weights, None where they are no constants."""
    peepholes = node.input(7) if node.op == "LSTM" else ""
    names = [name for name in (node.input(1), node.input(2), node.input(3), peepholes) if name]
    weights = constant_values(graph, names)
    if weights is None or weights[0].shape[0] != 1:
        return None
    found = dict(zip(names, (w[0] for w in weights), strict=True))
    w, r = found[node.input(1)], found[node.input(2)]
    bias = found[node.input(3)] if node.input(3) else np.zeros(2 * len(w), w.dtype)
    return Layer(node, w, r, bias.reshape(2, -1), found[peepholes].reshape(3, -1) if peepholes else None)


def write_cell(graph: Graph, layer: Layer, from_input: FromInput) -> None:
    """Put plain operators in the layer's place, for one token."""
    node, write = layer.node, Writer(graph, layer.node)
    state = write.constant(np.array([-1, layer.hidden]))
    states = [write("Reshape", node.input(slot), state) for slot, _ in STATE_SLOTS[node.op].values()]
    after = _CELLS[node.op](write, layer, _activations(layer), from_input, states)
    outputs = [*node.outputs, "", ""][:3]
    for index, (name, value) in enumerate(zip(outputs, (after[0], *after), strict=False)):
        if name:
            node.rename_output(index, f"{node.label}/unfolded{index}")
            ones = [1, 1] if index == 0 else [1]
            write("Reshape", value, write.constant(np.array([*ones, -1, layer.hidden])), output=name)
    graph.edited()


class Writer:
    """Writes operators in a layer's place, with names of the layer's own."""

    def __init__(self, graph: Graph, layer: Node) -> None:
        self._graph, self._label, self._place = graph, layer.label, graph.place(layer)
        self._count = 0

    def constant(self, value: Array) -> str:
        """A new constant."""
        self._count += 1
        return self._graph.add_initializer(f"{self._label}/part{self._count}", np.ascontiguousarray(value))

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A new operator; its output, called `output` if that is given."""
        self._count, self._place = self._count + 1, self._place + 1
        name = output or f"{self._label}/part{self._count}"
        return self._graph.add_node(op, list(inputs), name, at=self._place - 1, **attributes)

    def columns(self, tensor: str, width: int, start: int, end: int) -> str:
        """The parts `start` to `end` of a tensor [B, parts * width]."""
        if self._graph.opset < 10:
            return self("Slice", tensor, starts=[start * width], ends=[end * width], axes=[1])
        bounds = (self.constant(np.array([v])) for v in (start * width, end * width, 1))
        return self("Slice", tensor, *bounds)

    def clip(self, tensor: str, bound: Array) -> str:
        """The tensor held between -bound and bound."""
        if self._graph.opset < 11:
            return self("Clip", tensor, min=float(-bound), max=float(bound))
        return self("Clip", tensor, self.constant(-bound), self.constant(bound))

    def product(self, left: str, weights: Array, added: str) -> str:
        """``left @ weights.T + added``."""
        return self("Gemm", left, self.constant(weights.T), added)


# Of the gates, of the candidate, and (LSTM) of what shows c.
Activation = Callable[[Writer, str], str]


def _lstm(
    write: Writer, layer: Layer, activations: list[Activation], from_input: FromInput, states: list[str]
) -> list[str]:
    """C' = f*c + i*g, h' = o*tanh(c'); ONNX's order of gates is i, o, f, g. Peepholes: i and f see c, o sees c'."""
    (h, c), width = states, layer.hidden
    opens, enters, shows = activations
    gates = write.product(h, layer.R, from_input(write, layer.bias.sum(0)))

    def gate_value(gate: int, cell: str) -> str:
        value = write.columns(gates, width, gate, gate + 1)
        if layer.peepholes is not None:
            value = write("Add", value, write("Mul", cell, write.constant(layer.peepholes[gate])))
        return opens(write, value)

    i = gate_value(0, c)
    coupled = bool(layer.node.attribute("input_forget", 0))
    f = write("Sub", write.constant(np.ones(1, layer.R.dtype)), i) if coupled else gate_value(2, c)
    candidate = enters(write, write.columns(gates, width, 3, 4))
    after_c = write("Add", write("Mul", f, c), write("Mul", i, candidate))
    return [write("Mul", gate_value(1, after_c), shows(write, after_c)), after_c]


def _gru(
    write: Writer, layer: Layer, activations: list[Activation], from_input: FromInput, states: list[str]
) -> list[str]:
    """H' = n + z*(h - n), n = tanh(x + r*(hR + b)) or tanh(x + (r*h)R + b); ONNX's order of gates is z, r, n."""
    (h,), width = states, layer.hidden
    opens, enters = activations
    from_x, bias, cut = from_input(write, layer.bias[0]), layer.bias[1], 2 * width
    whole = bool(layer.node.attribute("linear_before_reset", 0))
    end = None if whole else cut
    from_state = write.product(h, layer.R[:end], write.constant(bias[:end]))
    z, r = (
        opens(write, write("Add", *(write.columns(t, width, k, k + 1) for t in (from_x, from_state)))) for k in (0, 1)
    )
    if whole:
        own = write("Mul", r, write.columns(from_state, width, 2, 3))
    else:
        own = write.product(write("Mul", r, h), layer.R[cut:], write.constant(bias[cut:]))
    n = enters(write, write("Add", write.columns(from_x, width, 2, 3), own))
    return [write("Add", n, write("Mul", z, write("Sub", h, n)))]


def _rnn(
    write: Writer, layer: Layer, activations: list[Activation], from_input: FromInput, states: list[str]
) -> list[str]:
    """H' = f(x + hR)."""
    return [activations[0](write, write.product(states[0], layer.R, from_input(write, layer.bias.sum(0))))]


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}

# The parameters that each activation has, with their defaults in recurrent layers.
_PARAMETERS: dict[str, dict[str, float]] = {
    "relu": {},
    "tanh": {},
    "sigmoid": {},
    "softsign": {},
    "softplus": {},
    "leakyrelu": {"alpha": 0.01},
    "thresholdedrelu": {"alpha": 1.0},
    "hardsigmoid": {"alpha": 0.2, "beta": 0.5},
    "elu": {"alpha": 1.0},
    "affine": {"alpha": 1.0, "beta": 0.0},
    "scaledtanh": {"alpha": 1.0, "beta": 1.0},
}
_OPERATORS = {op.lower(): op for op in ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu")}  # fmt: skip


def _activation_names(node: Node) -> list[str]:
    names = node.attribute("activations") or _DEFAULT_ACTIVATIONS[node.op]
    return [name.decode() if isinstance(name, bytes) else name for name in names]


def activation_parameters(node: Node) -> list[tuple[str, dict[str, float]]]:
    """The layer's functions in lower case, each with its parameters, which it takes from the front of the lists of alphas and betas."""
    given = {key: list(node.attribute(f"activation_{key}") or ()) for key in ("alpha", "beta")}
    names = [name.lower() for name in _activation_names(node)]
    return [(n, {k: given[k].pop(0) if given[k] else v for k, v in _PARAMETERS[n].items()}) for n in names]


def _activations(layer: Layer) -> list[Activation]:
    """The layer's functions, each with its clip before it."""
    node, dtype = layer.node, layer.R.dtype
    clip = node.attribute("clip", 0.0)
    found = []
    for index, (name, parameters) in enumerate(activation_parameters(node)):
        activation = _activation(name, parameters, dtype)
        shows_c = node.op == "LSTM" and index == 2
        found.append(_clipped(activation, np.array(clip, dtype)) if clip and not shows_c else activation)
    return found


def _clipped(activation: Activation, bound: Array) -> Activation:
    return lambda write, x: activation(write, write.clip(x, bound))


def _activation(name: str, parameters: dict[str, float], dtype: np.dtype[Any]) -> Activation:
    if name in _OPERATORS:
        attributes: dict[str, Any] = dict(parameters)
        return lambda write, x: write(_OPERATORS[name], x, **attributes)
    alpha, beta = (np.array([parameters[key]], dtype) for key in ("alpha", "beta"))
    if name == "affine":
        return lambda write, x: write("Add", write("Mul", x, write.constant(alpha)), write.constant(beta))
    return lambda write, x: write(
        "Mul", write("Tanh", write("Mul", x, write.constant(beta))), write.constant(alpha)
    )  # scaled tanh
