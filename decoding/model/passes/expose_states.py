"""Recurrent states that a graph hides: found, started, and opened as inputs and outputs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import State
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array, Shape
from decoding.model.roles.infer import Roles, data_ancestors, recurrent_path
from decoding.model.runtime.session import Session

# Numbers in two rows of a state; damaged sizes go far beyond.
_LARGEST = 2**26


@dataclass(frozen=True)
class HiddenState:
    """A state that a recurrent layer, a Loop or a Scan keeps to itself.

    Attributes:
        slot: the node's input that starts it; `out`: the output that gives its last value.
        initial: the tensor at `slot`, empty where ONNX's default (zeros) starts it.
        size: the layer's hidden size, where it has one.
        name: what to call the new input.
    """

    node: Node
    slot: int
    out: int
    initial: str
    dtype: np.dtype[Any]
    size: int | None
    name: str

    @property
    def source(self) -> str:
        """Where it was, in words."""
        return f"hidden in {self.node.op} {self.node.label}"


@dataclass(frozen=True)
class Start:
    """The value that starts a hidden state, as the original computes it, and the axes that may count rows.

    Attributes:
        context: the context or latent that it is computed from, for each prompt or sequence anew; the value then is but one of its shape.
    """

    value: Array
    axes: tuple[int, ...]
    context: str = ""

    def row(self, axis: int, graph: Graph, hidden: HiddenState) -> Array:
        """The value for one row.

        Raises:
            ModelError: the rows of a fixed batch start differently, so that no single start can be told.
        """
        row = np.ascontiguousarray(self.value.take([0], axis))
        if self.context:
            return np.zeros_like(row)
        if (self.value != row).any():
            raise ModelError(
                f"{graph.name}: the state {hidden.source} starts differently in each row of its fixed batch of {self.value.shape[axis]}; "
                "export the model with a batch of one"
            )
        return row


def find_hidden_states(graph: Graph, roles: Roles) -> list[HiddenState]:
    """The hidden states between the token and the logits, in the order of execution.

    Only the path that the token's data takes counts: it keeps out the shape arithmetic with which exporters size
    their initial zeros. A Loop's counters and the time steps that it reads are no states: they are whole numbers,
    or computed from the token.
    """
    fed = set().union(*(graph.descendants(name) for name in roles.states))
    found = []
    for number, node in enumerate(recurrent_path(graph, roles.token, roles.logits)):
        states: list[tuple[int, int, np.dtype[Any], int | None, str]]
        if node.op in STATE_SLOTS:
            dtype, size = _layer(graph, node)
            states = [(slot, out, dtype, size, state) for state, (slot, out) in STATE_SLOTS[node.op].items()]
        else:
            states = [(slot, out, dtype, None, str(out)) for slot, out, dtype in node.carried() if dtype.kind == "f"]
        for slot, out, dtype, width, state in states:
            initial = node.input(slot)
            if initial in fed or (width is None and roles.token in data_ancestors(graph, initial)):
                continue
            found.append(HiddenState(node, slot, out, initial, dtype, width, f"state_{number}_{state}"))
    return found


def _layer(graph: Graph, node: Node) -> tuple[np.dtype[Any], int]:
    """Dtype and hidden size of a recurrent layer, from its recurrence weights [directions, gates * hidden, hidden].

    In an int8 layer these are [directions, hidden, gates * hidden], and the states are float32.
    """
    weights = graph.constant(node.input(2))
    if weights is not None and weights.ndim == 3:
        return weights.dtype if weights.dtype.kind == "f" else np.dtype(np.float32), min(weights.shape[1:])
    size = node.attribute("hidden_size")
    if weights is not None or not isinstance(size, int):
        raise ModelError(
            f"{graph.name}: the {node.op} layer {node.label!r} has no recurrence weights [directions, gates * hidden, hidden] and no hidden_size; export it again"
        )
    return np.dtype(np.float32), size


def start_values(
    graph: Graph, hidden: Sequence[HiddenState], declared: Mapping[str, Shape], contexts: Container[str]
) -> list[Start]:
    """The value that starts each hidden state, from runs of just that part of the original at two batch sizes.

    Args:
        contexts: inputs that a state may be computed from: contexts and latents.
    """
    tensors = list(dict.fromkeys(h.initial for h in hidden if h.initial))
    inputs = {p.name for p in graph.inputs}
    of = {h.initial: sorted(inputs & data_ancestors(graph, h.initial)) for h in hidden if h.initial}
    for h in hidden:
        if data := [name for name in of.get(h.initial, ()) if name not in contexts]:
            raise ModelError(
                f"{graph.name}: the state {h.source} starts from the input {data[0]}; export the initial state as an input of the decoder"
            )
    values: list[dict[str, Array]] = [{}, {}]
    if tensors:
        part = graph.part(tensors)
        session = Session(part, threads=1)
        values[0] = _run_part(part, session, tensors, declared, 2)
        for name, value in values[0].items():
            if value.size > _LARGEST:
                raise ModelError(
                    f"{graph.name}: the initial state {name} has the shape {list(value.shape)} for 2 rows, which no state has: the file is damaged"
                )
        values[1] = _run_part(part, session, tensors, declared, 3)
    starts = [_start(h, values[0].get(h.initial), values[1].get(h.initial)) for h in hidden]
    return [replace(s, context=next(iter(of.get(h.initial, ())), "")) for h, s in zip(hidden, starts, strict=True)]


def _run_part(
    part: Graph, session: Session, tensors: Sequence[str], declared: Mapping[str, Shape], batch: int
) -> dict[str, Array]:
    """The tensors for inputs of this batch, or of the declared sizes where the export runs with no others."""
    failure = None
    for believe in (False, True):
        feeds = {}
        for port in part.inputs:
            free = [batch, *[1] * (len(port.shape or (None, None)) - 1)]
            dims = zip(declared[port.name] or free, free, strict=False)
            feeds[port.name] = np.zeros([d if believe and isinstance(d, int) else f for d, f in dims], port.dtype)
        try:
            return dict(zip(tensors, session.run(feeds, tensors), strict=True))
        except ModelError as error:
            failure = error
    raise failure or ModelError(part.name)


def _start(hidden: HiddenState, two: Array | None, three: Array | None) -> Start:
    if two is None or three is None:
        return Start(np.zeros((1, 1, hidden.size or 0), hidden.dtype), (1,))
    if hidden.size is not None:
        return Start(two, (1,))
    varying = tuple(i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b)
    return Start(two, varying or tuple(range(two.ndim)))


def expose_states(graph: Graph, hidden: Sequence[HiddenState]) -> list[tuple[str, str]]:
    """Make each hidden state an input and an output of the graph: (input, output) names."""
    names = []
    for h in hidden:
        graph.add_input(h.name, h.dtype, None)
        h.node.set_input(h.slot, h.name)
        output = h.node.output(h.out, f"{h.name}_out")
        graph.edited()
        graph.add_output(output, h.dtype, None)
        names.append((h.name, output))
    return names


def exposed_states(
    graph: Graph,
    hidden: Sequence[HiddenState],
    names: Sequence[tuple[str, str]],
    starts: Sequence[Start],
    axes: Sequence[int],
) -> list[State]:
    """The opened states as parts of a contract."""
    return [
        State(name, output, axis, start.row(axis, graph, h), h.source)
        for h, (name, output), start, axis in zip(hidden, names, starts, axes, strict=True)
    ]
