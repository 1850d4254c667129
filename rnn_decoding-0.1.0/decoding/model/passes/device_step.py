"""The step graph for a device: states are read through row indices, and few numbers are copied in and out.

The graph of a single step changes in these ways:

- the token and the positions come in one int64 array with the row indices: one copy to the device at each step;
- every state is read through a Gather by the row indices: beams are reordered and rows moved where the states are;
- recurrent layers are plain operators (lower_recurrent.py);
- where only a few logits can matter, they are chosen here and come out with the log of the sum of all exponentials, so that
  log-probabilities stay those of the whole vocabulary; or the token is drawn here, from a uniform number that goes in.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session

# Names of what is added. The step is int64 [2 + positions, B]: tokens, row indices, positions. The draw is float64 [2, B]:
# uniform numbers and temperatures. The choice is float64 [B, 2 * count + 1]: logits and ids of the best, and the log-sum-exp.
STEP, DRAW, CHOICE = "decoding/step", "decoding/draw", "decoding/choice"

# Exponentials are summed in float32 over blocks of this many, and in float64 over the blocks, as the kernels of csrc/ do.
_BLOCK = 256
# ReduceSum and TopK take what they need as inputs since then.
_SMALLEST_OPSET = 13


@dataclass(frozen=True)
class Reduction:
    """How the logits are reduced on the device.

    Attributes:
        how: "best": the `count` greatest logits leave the device; "draw": one token is drawn from all, by temperature alone.
        count: number of logits that leave the device.
    """

    how: Literal["best", "draw"]
    count: int = 1


@dataclass
class DeviceStep:
    """A session over a device's step graph, and one that moves states.

    Attributes:
        mover: takes states, others of the same kind as "<state>/given", and an "index" [N] into both of them in a row, and
            returns these rows under the names of the states' outputs.
        uncaptured: why onnxruntime cannot capture the graph as a CUDA graph; empty where it can, or where there is no CUDA.
        idle: buffers that no batch uses now, by what they fit; their bindings (and CUDA graphs) live on with them.
    """

    session: Session
    mover: Session
    uncaptured: str = ""
    idle: dict[Any, list[Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def can_reduce(graph: Graph) -> bool:
    """Return whether the file's opset has the operators that a reduction needs."""
    return graph.opset >= _SMALLEST_OPSET


def start_device_step(
    graph: Graph, contract: Contract, reduction: Reduction | None, open_session: Callable[..., Session]
) -> DeviceStep:
    """Sessions for steps on a device, with CUDA graphs where onnxruntime can capture the graph."""
    prepared, uncaptured = device_graph(graph, contract, reduction), ""
    try:
        session = open_session(prepared, captures=True)
    except ModelError as error:
        # Control flow, or an operator that CUDA has no kernel for: Model.placement() and `decoding inspect` say so.
        uncaptured = str(error).removeprefix(f"{graph.name}: ")
        if not re.search("cuda graph|graph capture", uncaptured, re.IGNORECASE):
            raise
        session = open_session(prepared)
    return DeviceStep(session, open_session(moving_graph(contract)), uncaptured)


def step_feeds(contract: Contract, rows: int) -> dict[str, Array]:
    """Inputs of a device's step graph without a reduction: token 0 for each row, initial states, contexts to probe with."""
    positions = [f for f in contract.auxiliary_inputs if f.kind == "position"]
    plain = contract.feeds(np.zeros((rows, 1), np.int64))
    replaced = {contract.token.name, *(f.name for f in positions)}
    step = np.stack([np.zeros(rows, np.int64), np.arange(rows), *(np.zeros((len(positions), rows), np.int64))])
    return {
        STEP: step,
        **{k: v for k, v in plain.items() if k not in replaced},
        **{s.input: s.initial_rows(rows) for s in contract.states},
    }


def moving_graph(contract: Contract) -> Graph:
    """Rows of the states and of given ones, in any order."""
    graph = Graph.empty("rows of states", _SMALLEST_OPSET)
    graph.add_input("index", np.int64, [None])
    for state in contract.states:
        shape = [None if axis == state.batch_axis else d for axis, d in enumerate(state.initial.shape)]
        own, given = (graph.add_input(n, state.dtype, shape) for n in (state.input, f"{state.input}/given"))
        both = graph.add_node("Concat", [own, given], f"{state.input}/both", axis=state.batch_axis)
        graph.add_node("Gather", [both, "index"], state.output, axis=state.batch_axis)
        graph.add_output(state.output, state.dtype, shape)
    return graph


def device_graph(graph: Graph, contract: Contract, reduction: Reduction | None) -> Graph:
    """A copy of the step graph with the inputs and outputs named at the top of this file."""
    copy = graph.copy()
    copy.forget_shapes()
    _feed_at_once(copy, contract)
    outputs = [contract.logits.name, *(s.output for s in contract.states)]
    outputs += [contract.attention] if contract.attention is not None else []
    for name in outputs:
        copy.set_shape(name, None)
    if reduction is not None:
        _add_choice(_Appender(copy), contract, reduction)
        outputs.append(CHOICE)
    copy.keep_outputs(outputs)
    return copy


def _feed_at_once(graph: Graph, contract: Contract) -> None:
    """Take token, row indices and positions from one input, and read each state by the indices."""
    positions = [f for f in contract.auxiliary_inputs if f.kind == "position"]
    types = {p.name: p.dtype for p in graph.inputs}
    graph.add_input(STEP, np.int64, [2 + len(positions), None])
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []

    def line(number: int) -> str:
        index = graph.add_initializer(f"{STEP}/{number}", np.array(number))
        nodes.append(("Gather", [STEP, index], f"{STEP}/line{number}", {"axis": 0}))
        return f"{STEP}/line{number}"

    def shaped(name: str, source: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        sizes = graph.add_initializer(f"{name}/device_shape", np.array([-1 if d == _ROWS else d for d in shape]))
        nodes.append(("Reshape", [source, sizes], f"{name}/device_ids", {}))
        nodes.append(("Cast", [f"{name}/device_ids"], f"{name}/device", {"to": dtype}))
        _read_instead(graph, name, f"{name}/device")

    token = contract.token
    shaped(token.name, line(0), token.shape(_ROWS), types[token.name])
    rows = line(1)
    for number, aux in enumerate(positions, 2):
        shaped(aux.name, line(number), _shape(aux, contract), aux.dtype)
    for state in contract.states:
        _read_instead(graph, state.input, f"{state.input}/rows")
        nodes.append(("Gather", [state.input, rows], f"{state.input}/rows", {"axis": state.batch_axis}))
        graph.set_shape(state.input, [None if i == state.batch_axis else d for i, d in enumerate(state.initial.shape)])
    for place, (op, inputs, output, attributes) in enumerate(nodes):
        graph.add_node(op, inputs, output, at=place, **attributes)


_ROWS = 7  # stands for the number of rows in a shape; no axis of ids has another length but one


def _shape(aux: AuxiliaryInput, contract: Contract) -> tuple[int, ...]:
    return aux.value(contract.token, _ROWS, 1).shape


def _read_instead(graph: Graph, old: str, new: str) -> None:
    for node in graph.consumers(old):
        node.replace_input(old, new)
    graph.edited()


class _Appender:
    """Writes operators at the end of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._count = 0

    def __call__(self, op: str, *inputs: str, named: str | None = None, more: Sequence[str] = (), **attributes: Any) -> str:  # fmt: skip
        return self.graph.add_node(op, list(inputs), named or self.name(), more=more, **attributes)

    def name(self) -> str:
        """A new tensor's."""
        self._count += 1
        return f"{CHOICE}{self._count}"

    def constant(self, value: float | list[int], dtype: Any = np.int64) -> str:
        """A new initializer."""
        return self.graph.add_initializer(self.name(), np.array(value, dtype))

    def cast(self, tensor: str, dtype: Any) -> str:
        """The tensor in another dtype."""
        return self("Cast", tensor, to=np.dtype(dtype))

    def reduce(self, op: str, tensor: str, axis: int) -> str:
        """ReduceSum or ReduceMax over one axis, which stays."""
        if op == "ReduceSum" or self.graph.opset >= 18:
            return self(op, tensor, self.constant([axis]), keepdims=1)
        return self(op, tensor, axes=[axis], keepdims=1)


def _add_choice(write: _Appender, contract: Contract, reduction: Reduction) -> None:
    vocab = contract.logits.vocab_size
    logits = write("Reshape", contract.logits.name, write.constant([-1, vocab]))
    # Held to what float32 has, so that rows of nothing but -inf, or with +inf or NaN, have log-sums of -inf, +inf and NaN.
    bounds = (write.constant(float(v), np.float32) for v in (np.finfo(np.float32).min, np.finfo(np.float32).max))
    greatest = write("Clip", write.reduce("ReduceMax", logits, 1), *bounds)
    shifted = write("Sub", logits, greatest)
    total = write("Log", write.cast(write.reduce("ReduceSum", write("Exp", shifted), 1), np.float64))
    normalizer = write("Add", write.cast(greatest, np.float64), total)
    if reduction.how == "best":
        ids = write.name()
        values = write("TopK", logits, write.constant([reduction.count]), more=[ids], axis=1, largest=1, sorted=1)
    else:
        ids = _draw(write, shifted, vocab)
        values = write("GatherElements", logits, ids, axis=1)
    parts = (write.cast(values, np.float64), write.cast(ids, np.float64), normalizer)
    write("Concat", *parts, named=CHOICE, axis=1)
    write.graph.add_output(CHOICE, np.float64, [None, 2 * reduction.count + 1])


def _draw(write: _Appender, shifted: str, vocab: int) -> str:
    """The first id [B, 1] whose running sum of tempered weights passes u times their sum, as reference.draw says."""
    write.graph.add_input(DRAW, np.float64, [2, None])
    column = write.constant([-1, 1])
    uniform, temperature = (
        write("Reshape", write("Gather", DRAW, write.constant(line), axis=0), column) for line in (0, 1)
    )
    weights = write("Exp", write("Div", shifted, write.cast(temperature, np.float32)))
    blocks = -(-vocab // _BLOCK)
    if vocab % _BLOCK:
        weights = write("Pad", weights, write.constant([0, 0, 0, blocks * _BLOCK - vocab]))
    weights = write("Reshape", weights, write.constant([-1, blocks, _BLOCK]))
    sums = write("Reshape", write.reduce("ReduceSum", weights, 2), write.constant([-1, blocks]))
    running = _running(write, sums)
    target = write("Mul", uniform, write("Gather", running, write.constant([blocks - 1]), axis=1))
    block = _first_above(write, running, target, blocks)
    before = write.reduce("ReduceMax", write("Where", write("LessOrEqual", running, target), running, write.constant(0.0, np.float64)), 1)  # fmt: skip
    inside = _running(write, write("GatherND", weights, block, batch_dims=1))
    within = _first_above(write, inside, write("Sub", target, before), _BLOCK)
    token = write("Add", write("Mul", block, write.constant(_BLOCK)), within)
    return write("Min", token, write.constant(vocab - 1))  # the last block may not be full


def _running(write: _Appender, weights: str) -> str:
    return write("CumSum", write.cast(weights, np.float64), write.constant(1))


def _first_above(write: _Appender, running: str, target: str, count: int) -> str:
    """The first of `count` running sums [B, count] that is above its row's target, [B, 1].

    The target is held a little under the last sum, so that rounding cannot lead past the last weight that is not zero.
    """
    whole = write("Gather", running, write.constant([count - 1]), axis=1)
    limit = write("Min", target, write("Mul", whole, write.constant(1 - 2.0**-40, np.float64)))
    passed = write.cast(write("LessOrEqual", running, limit), np.float32)
    index = write.cast(write.reduce("ReduceSum", passed, 1), np.int64)
    return write("Min", index, write.constant(count - 1))  # all are passed where the sums are NaN or none is above 0
