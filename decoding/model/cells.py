"""Recurrent layers as plain operators, for one token: what folding and quantizing put in a layer's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from decoding.model.graph import Graph
from decoding.model.node import Node
from decoding.model.ports import STATE_SLOTS, Array
from decoding.model.session import constant_values

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {"LSTM": ([b"Sigmoid", b"Tanh", b"Tanh"],), "GRU": ([b"Sigmoid", b"Tanh"],), "RNN": ([b"Tanh"], [b"Relu"])}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A layer of the usual equations, its states opened, and its weights.

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
    if graph.opset < 10:  # Slice took attributes then
        return f"operator set {graph.opset}"
    if node.input(4):
        return "sequence lengths"
    if not all(node.input(slot) for slot, _ in STATE_SLOTS[node.op].values()):
        return "a state that is not opened"
    if other := [name for name in ("clip", "input_forget", "layout") if node.attribute(name)]:
        return other[0]
    if node.attribute("activations", _ACTIVATIONS[node.op][0]) not in _ACTIVATIONS[node.op]:
        return "other activations"
    return None


def read_layer(graph: Graph, node: Node) -> Layer | None:
    """The layer with its weights, None where they are no float32 constants of one direction."""
    peepholes = node.input(7) if node.op == "LSTM" else ""
    names = [name for name in (node.input(1), node.input(2), node.input(3), peepholes) if name]
    weights = constant_values(graph, names)
    if weights is None or weights[0].shape[0] != 1 or any(w.dtype != np.float32 for w in weights):
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
    after = _CELLS[node.op](write, layer, from_input, states)
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
        return self._graph.add_initializer(f"{self._label}/part{self._count}", value)

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """A new operator; its output, called `output` if that is given."""
        self._count, self._place = self._count + 1, self._place + 1
        name = output or f"{self._label}/part{self._count}"
        return self._graph.add_node(op, list(inputs), name, at=self._place - 1, **attributes)

    def columns(self, tensor: str, width: int, start: int, end: int) -> str:
        """The parts `start` to `end` of a tensor [B, parts * width]."""
        bounds = (self.constant(np.array([v])) for v in (start * width, end * width, 1))
        return self("Slice", tensor, *bounds)

    def product(self, left: str, weights: Array, added: str) -> str:
        """``left @ weights.T + added``."""
        return self("Gemm", left, self.constant(np.ascontiguousarray(weights.T)), added)


def _lstm(write: Writer, layer: Layer, from_input: FromInput, states: list[str]) -> list[str]:
    """C' = f*c + i*g, h' = o*tanh(c'); ONNX's order of gates is i, o, f, g. Peepholes: i and f see c, o sees c'."""
    (h, c), width = states, layer.hidden
    gates = write.product(h, layer.R, from_input(write, layer.bias.sum(0)))

    def opened(gate: int, cell: str) -> str:
        value = write.columns(gates, width, gate, gate + 1)
        if layer.peepholes is not None:
            value = write("Add", value, write("Mul", cell, write.constant(layer.peepholes[gate])))
        return write("Sigmoid", value)

    candidate = write("Tanh", write.columns(gates, width, 3, 4))
    after_c = write("Add", write("Mul", opened(2, c), c), write("Mul", opened(0, c), candidate))
    return [write("Mul", opened(1, after_c), write("Tanh", after_c)), after_c]


def _gru(write: Writer, layer: Layer, from_input: FromInput, states: list[str]) -> list[str]:
    """H' = n + z*(h - n), n = tanh(x + r*(hR + b)) or tanh(x + (r*h)R + b); ONNX's order of gates is z, r, n."""
    (h,), width = states, layer.hidden
    from_x, bias, cut = from_input(write, layer.bias[0]), layer.bias[1], 2 * width
    whole = bool(layer.node.attribute("linear_before_reset", 0))
    end = None if whole else cut
    from_state = write.product(h, layer.R[:end], write.constant(bias[:end]))
    z, r = (
        write("Sigmoid", write("Add", *(write.columns(t, width, k, k + 1) for t in (from_x, from_state))))
        for k in (0, 1)
    )
    if whole:
        own = write("Mul", r, write.columns(from_state, width, 2, 3))
    else:
        own = write.product(write("Mul", r, h), layer.R[cut:], write.constant(bias[cut:]))
    n = write("Tanh", write("Add", write.columns(from_x, width, 2, 3), own))
    return [write("Add", n, write("Mul", z, write("Sub", h, n)))]


def _rnn(write: Writer, layer: Layer, from_input: FromInput, states: list[str]) -> list[str]:
    """H' = tanh(x + hR), or with a ReLU."""
    (activation,) = layer.node.attribute("activations", [b"Tanh"])
    return [write(activation.decode(), write.product(states[0], layer.R, from_input(write, layer.bias.sum(0))))]


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
