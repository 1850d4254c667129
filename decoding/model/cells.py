"""One step of an LSTM, GRU or RNN layer, written as plain operators in the layer's place.

The formulas are those of ONNX's operators as onnxruntime's CPU kernels read them: `clip` bounds what enters the gates and
the candidate, not what enters h; `input_forget` couples the gates; peepholes see the old c, the output gate's the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.model.graph import Graph
from decoding.model.node import Node
from decoding.model.ports import STATE_SLOTS, Array
from decoding.model.session import Session

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


class Writer:
    """Writes operators in a layer's place, with names of the layer's own."""

    def __init__(self, graph: Graph, layer: Node, suffix: str) -> None:
        self._graph, self._prefix, self._place = graph, f"{layer.label}/{suffix}", graph.place(layer)
        self._count = 0

    def constant(self, value: Array) -> str:
        """A new initializer."""
        self._count += 1
        return self._graph.add_initializer(f"{self._prefix}{self._count}", value)

    def __call__(self, op: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """A new operator behind the one before."""
        self._count, self._place = self._count + 1, self._place + 1
        output = to or f"{self._prefix}{self._count}"
        return self._graph.add_node(op, list(inputs), output, at=self._place - 1, **attributes)

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


Activation = Callable[[Writer, str], str]


@dataclass(frozen=True)
class Cell:
    """A forward layer with its states given, and its weights' values, without the axis of directions.

    Attributes:
        weights: W [gates * H, I], R [gates * H, H], B [2 * gates * H], and P [3 * H] where there are peepholes.
        activations: of the gates, the candidate, and (LSTM) what shows c.
        clip: bound of what enters gates and candidate; None: none.
    """

    layer: Node
    weights: dict[str, Array]
    activations: tuple[Activation, ...]
    clip: Array | None

    @property
    def hidden(self) -> int:
        """Width of the state."""
        return int(self.weights["R"].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of weights and states."""
        return self.weights["R"].dtype

    def enter(self, write: Writer, activation: int, tensor: str) -> str:
        """An activation of the list, behind the clip."""
        return self.activations[activation](write, tensor if self.clip is None else write.clip(tensor, self.clip))


def read_cell(graph: Graph, layer: Node) -> Cell | None:
    """What there is to know of a recurrent layer, or None where it cannot be written as plain operators.

    That is: another direction, lengths, a missing state, weights that an input decides, an unknown activation.
    """
    slots = [slot for slot, _ in STATE_SLOTS.get(layer.op, {}).values()]
    whole = slots and all(layer.input(slot) for slot in slots) and not layer.input(4)
    if not whole or layer.attribute("direction", "forward") != "forward" or layer.attribute("layout", 0):
        return None
    names = {key: layer.input(slot) for key, slot in (("W", 1), ("R", 2), ("B", 3), ("P", 7)) if layer.input(slot)}
    values = constant_values(graph, list(names.values()))
    if values is None:
        return None
    weights = {key: value[0] for key, value in zip(names, values, strict=True)}
    activations = _activations(graph, layer, weights["R"].dtype)
    if activations is None:
        return None
    weights.setdefault("B", np.zeros(2 * len(weights["R"]), weights["R"].dtype))
    clip = layer.attribute("clip", 0.0)
    return Cell(layer, weights, activations, np.array(clip, weights["R"].dtype) if clip else None)


def constant_values(graph: Graph, names: Sequence[str]) -> list[Array] | None:
    """The tensors' values where no input is needed for them: exporters re-arrange weights in the graph."""
    values = [graph.constant(name) for name in names]
    if any(value is None for value in values):
        part = graph.part(names)
        return None if part.inputs else Session(part, threads=1).run({}, names)
    return [value for value in values if value is not None]


def write_cell(graph: Graph, cell: Cell, suffix: str, from_input: Callable[[Writer, Array], str]) -> None:
    """Put plain operators in the layer's place, for one token.

    Args:
        suffix: goes into the names of what is written.
        from_input: writes the input's product with W, plus the bias given, [B, gates * H].
    """
    layer = cell.layer
    write = Writer(graph, layer, suffix)
    flat = write.constant(np.array([-1, cell.hidden]))
    states = [write("Reshape", layer.input(slot), flat) for slot, _ in STATE_SLOTS[layer.op].values()]
    after = _CELLS[layer.op](write, cell, from_input, states)
    outputs = [*layer.outputs, "", ""][:3]
    for index, (name, value) in enumerate(zip(outputs, (after[0], *after), strict=False)):
        if name:
            layer.rename_output(index, f"{layer.label}/un{suffix}{index}")
            ones = [1, 1] if index == 0 else [1]
            write("Reshape", value, write.constant(np.array([*ones, -1, cell.hidden])), to=name)
    graph.edited()


def _lstm(write: Writer, cell: Cell, from_input: Callable[[Writer, Array], str], states: list[str]) -> list[str]:
    """C' = f*c + i*g, h' = o*tanh(c'); ONNX's order of gates is i, o, f, g; of peepholes i, o, f."""
    (h, c), width = states, cell.hidden
    product = from_input(write, cell.weights["B"].reshape(2, -1).sum(0))
    gates = write("Gemm", h, write.constant(np.ascontiguousarray(cell.weights["R"].T)), product)
    peepholes = cell.weights["P"].reshape(3, width) if "P" in cell.weights else None

    def gate(index: int, seen: str) -> str:
        entering = write.columns(gates, width, index, index + 1)
        if peepholes is not None:
            entering = write("Add", entering, write("Mul", seen, write.constant(peepholes[index])))
        return cell.enter(write, 0, entering)

    i = gate(0, c)
    if cell.layer.attribute("input_forget", 0):
        f = write("Sub", write.constant(np.ones(1, cell.dtype)), i)
    else:
        f = gate(2, c)
    candidate = cell.enter(write, 1, write.columns(gates, width, 3, 4))
    after_c = write("Add", write("Mul", f, c), write("Mul", i, candidate))
    return [write("Mul", gate(1, after_c), cell.activations[2](write, after_c)), after_c]


def _gru(write: Writer, cell: Cell, from_input: Callable[[Writer, Array], str], states: list[str]) -> list[str]:
    """H' = n + z*(h - n), n = tanh(x + r*(hR + b)) or tanh(x + (r*h)R + b); ONNX's order of gates is z, r, n."""
    (h,), width = states, cell.hidden
    of_input, bias = cell.weights["B"].reshape(2, -1)
    product = from_input(write, of_input)
    recurrent = np.ascontiguousarray(cell.weights["R"].T)
    cut = 2 * width

    def gemm(left: str, start: int, end: int | None) -> str:
        part = np.ascontiguousarray(recurrent[:, start:end])
        return write("Gemm", left, write.constant(part), write.constant(np.ascontiguousarray(bias[start:end])))

    whole = bool(cell.layer.attribute("linear_before_reset", 0))
    from_state = gemm(h, 0, None if whole else cut)
    z, r = (
        cell.enter(write, 0, write("Add", *(write.columns(t, width, k, k + 1) for t in (product, from_state))))
        for k in (0, 1)
    )
    own = write("Mul", r, write.columns(from_state, width, 2, 3)) if whole else gemm(write("Mul", r, h), cut, None)
    n = cell.enter(write, 1, write("Add", write.columns(product, width, 2, 3), own))
    return [write("Add", n, write("Mul", z, write("Sub", h, n)))]


def _rnn(write: Writer, cell: Cell, from_input: Callable[[Writer, Array], str], states: list[str]) -> list[str]:
    """H' = f(x + hR)."""
    product = from_input(write, cell.weights["B"].reshape(2, -1).sum(0))
    recurrent = write.constant(np.ascontiguousarray(cell.weights["R"].T))
    return [cell.enter(write, 0, write("Gemm", states[0], recurrent, product))]


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}

# Of the activations that are operators of ONNX: the parameters that they have, with the recurrent layers' defaults.
_OPERATORS: dict[str, dict[str, float]] = {
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
_NAMES = {
    name.lower(): name
    for name in (
        "Relu",
        "Tanh",
        "Sigmoid",
        "Softsign",
        "Softplus",
        "LeakyRelu",
        "ThresholdedRelu",
        "HardSigmoid",
        "Elu",
    )
}


def _activations(graph: Graph, layer: Node, dtype: np.dtype[Any]) -> tuple[Activation, ...] | None:
    """The layer's functions; each takes its parameters from the front of the lists of alphas and betas."""
    names = layer.attribute("activations") or _DEFAULT_ACTIVATIONS[layer.op]
    given = {"alpha": list(layer.attribute("activation_alpha") or ()), "beta": list(layer.attribute("activation_beta") or ())}  # fmt: skip
    found = []
    for name in (n.decode() if isinstance(n, bytes) else n for n in names):
        known = _OPERATORS.get(name.lower())
        if known is None or (name.lower() == "thresholdedrelu" and graph.opset < 10):
            return None
        parameters = {k: given[k].pop(0) if given[k] else v for k, v in known.items()}
        found.append(_activation(name.lower(), parameters, dtype))
    return tuple(found)


def _activation(name: str, parameters: dict[str, float], dtype: np.dtype[Any]) -> Activation:
    if name in _NAMES:
        attributes: dict[str, Any] = dict(parameters)
        return lambda write, x: write(_NAMES[name], x, **attributes)
    alpha, beta = (np.array([parameters[key]], dtype) for key in ("alpha", "beta"))
    if name == "affine":
        return lambda write, x: write("Add", write("Mul", x, write.constant(alpha)), write.constant(beta))
    return lambda write, x: write(
        "Mul", write("Tanh", write("Mul", x, write.constant(beta))), write.constant(alpha)
    )  # scaled tanh
