"""Recurrent states that a graph hides: find them, run what computes their initial values, expose them as inputs and outputs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import State
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import graph_pass
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array, Shape
from decoding.model.roles.infer import Roles, data_ancestors, recurrent_path
from decoding.model.runtime.session import Session
from decoding.model.verify.layouts import StateShape

# Numbers in two rows of a state; the sizes in a damaged file go far beyond.
_LARGEST = 2**26


@dataclass(frozen=True)
class HiddenState:
    """A state that a recurrent layer, a Loop, a Scan or a delay line keeps to itself.

    It holds for every copy of the graph that still has the node.

    Attributes:
        name: the name of its input once it is exposed.
        node_output: a tensor that the node makes, by which a copy of the graph has it too.
        source: where it was found, in words.
        slot: the node's input that takes the initial state.
        out: the node's output that returns the last state.
        initial: the tensor at `slot`, empty where ONNX's default (zeros) is the initial state.
        size: the layer's hidden size; None for other nodes.
        last: the tensor with the last state, where that is no output of the node.
    """

    name: str
    node_output: str
    source: str
    slot: int
    out: int
    initial: str
    dtype: np.dtype[Any]
    size: int | None
    last: str = ""

    def node(self, graph: Graph) -> Node:
        """The node in this copy of the graph."""
        return next(node for node in graph.nodes if self.node_output in node.outputs)


@dataclass(frozen=True)
class InitialValue:
    """What the original graph computes as a hidden state's initial value.

    Attributes:
        value: for a batch of two, or of the declared size.
        axes: the axes that may count rows.
        context: the context or latent that it is computed from, empty where there is none. Each request or sequence then
            has an initial state of its own, and of `value` only the shape counts.
    """

    value: Array
    axes: tuple[int, ...]
    context: str = ""

    def row(self, axis: int, source: str) -> Array:
        """The initial state of one row; zeros where a context decides it.

        Args:
            axis: the axis that counts rows.
            source: the model and the state, for messages.

        Raises:
            ModelError: the rows of a fixed batch have different initial states, so no row can stand for all.
        """
        row = np.ascontiguousarray(self.value.take([0], axis))
        if self.context:
            return np.zeros_like(row)
        if (self.value != row).any():
            raise ModelError(
                f"{source} starts differently in each row of its fixed batch of {self.value.shape[axis]}; export the model with a batch of one"
            )
        return row


def find_hidden_states(graph: Graph, roles: Roles) -> list[HiddenState]:
    """The hidden states between the token and the logits, in the order of execution.

    Only the path of the token's data counts: it leaves out the shape arithmetic with which exporters size their initial
    zeros. A Loop's counters and the time steps that it reads are no states: they are whole numbers, or computed from the token.
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
        node_output, source = next(filter(None, node.outputs)), f"hidden in {node.op} {node.label}"
        for slot, out, dtype, width, state in states:
            initial = node.input(slot)
            if initial in fed or (width is None and roles.token in data_ancestors(graph, initial)):
                continue
            name = f"state_{number}_{state}"
            found.append(HiddenState(name, node_output, source, slot, out, initial, dtype, width))
    return found


def _layer(graph: Graph, node: Node) -> tuple[np.dtype[Any], int]:
    """Dtype and hidden size of a recurrent layer, from its recurrence weights [directions, gates * hidden, hidden].

    In an int8 layer these are [directions, hidden, gates * hidden], and the states are float32.
    """
    weights = graph.constant(node.input(2))
    if weights is not None and weights.ndim == 3:
        return weights.dtype if weights.dtype.kind == "f" else np.dtype(np.float32), min(weights.shape[1:])
    size = node.integer("hidden_size", 0)
    if weights is not None or not 0 < size <= _LARGEST:
        raise ModelError(
            f"{graph.name}: the {node.op} layer {node.label!r} has no recurrence weights [directions, gates * hidden, hidden] and no hidden_size; export it again"
        )
    return graph.number_type(node.input(2)), size


def initial_values(
    graph: Graph, hidden: Sequence[HiddenState], declared: Mapping[str, Shape], contexts: Container[str]
) -> list[InitialValue]:
    """The initial value of each hidden state, from runs of just that part of the original at two batch sizes.

    Args:
        declared: shapes of the inputs as the file declares them.
        contexts: inputs that an initial state may be computed from: contexts and latents.

    Raises:
        ModelError: an initial state is computed from another input, or has a size that no state has.
    """
    tensors = list(dict.fromkeys(h.initial for h in hidden if h.initial))
    inputs = {p.name for p in graph.inputs}
    read = {tensor: sorted(inputs & data_ancestors(graph, tensor)) for tensor in tensors}
    for h in hidden:
        if others := [name for name in read.get(h.initial, ()) if name not in contexts]:
            raise ModelError(
                f"{graph.name}: the state {h.source} starts from the input {others[0]}; export the initial state as an input of the decoder"
            )
    two: dict[str, Array] = {}
    three: dict[str, Array] = {}
    if tensors:
        part = graph.part(tensors)
        session = Session(part, threads=1)
        two = _run_part(part, session, tensors, declared, 2)
        for name, value in two.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
                raise ModelError(f"{graph.name}: the initial state {name} holds no numbers: the file is damaged")
            if value.size == 0:
                raise ModelError(
                    f"{graph.name}: the initial state {name} is empty, of the shape {list(value.shape)} for 2 rows: it grows with the sequence, so it is not carried from step to step"
                )
            if value.size > _LARGEST:
                raise ModelError(
                    f"{graph.name}: the initial state {name} has the shape {list(value.shape)} for 2 rows, which no state has: the file is damaged"
                )
        three = _run_part(part, session, tensors, declared, 3)
        for name, value in three.items():
            if value.ndim != two[name].ndim:
                raise ModelError(
                    f"{graph.name}: the initial state {name} has the shapes {list(two[name].shape)} and {list(value.shape)} for 2 and 3 rows, which no state has: the file is damaged"
                )
    found = []
    for h in hidden:
        context = next(iter(read.get(h.initial, ())), "")
        if not h.initial:
            found.append(InitialValue(np.zeros((1, 1, h.size or 0), h.dtype), (1,)))
        else:
            axes = (1,) if h.size is not None else _varying(two[h.initial].shape, three[h.initial].shape)
            found.append(InitialValue(two[h.initial], axes, context))
    return found


def _run_part(
    part: Graph, session: Session, tensors: Sequence[str], declared: Mapping[str, Shape], batch: int
) -> dict[str, Array]:
    """The tensors for inputs of this batch and one token, or of the declared sizes where the export runs with no others.

    Where some inputs have the batch first and others the time, only as many tokens as rows fit all of them.
    """
    failure = None
    for as_declared, tokens in ((False, 1), (True, 1), (True, batch)):
        feeds = {}
        for port in part.inputs:
            sizes = [batch, tokens, *[1] * (len(port.shape or (None, None)) - 2)][: len(port.shape or (None, None))]
            dims = zip(declared[port.name] or sizes, sizes, strict=False)
            feeds[port.name] = np.zeros([d if as_declared and isinstance(d, int) else s for d, s in dims], port.dtype)
        try:
            return dict(zip(tensors, session.run(feeds, tensors), strict=True))
        except ModelError as error:
            failure = error
    raise failure or ModelError(part.name)


def _varying(two: Sequence[int], three: Sequence[int]) -> tuple[int, ...]:
    """The axes that differ between runs of two and of three rows, or all where none does."""
    return tuple(i for i, (a, b) in enumerate(zip(two, three, strict=True)) if a != b) or tuple(range(len(two)))


@graph_pass("expose states")
def expose_states(graph: Graph, hidden: Sequence[tuple[HiddenState, InitialValue]]) -> list[StateShape]:
    """Make each hidden state an input of the graph, called by its name, and an output."""
    shapes = []
    for h, initial in hidden:
        node = h.node(graph)
        graph.add_input(h.name, h.dtype, None)
        node.set_input(h.slot, h.name)
        output = h.last or node.output(h.out, f"{h.name}_out")
        graph.edited()
        graph.add_output(output, h.dtype, None)
        shapes.append(StateShape(h.name, output, initial.value.shape, initial.axes, h.dtype))
    return shapes


def exposed_states(
    graph: Graph,
    hidden: Sequence[tuple[HiddenState, InitialValue]],
    shapes: Sequence[StateShape],
    axes: Sequence[int],
) -> list[State]:
    """The exposed states as parts of a contract; `axes` says for each which axis counts rows."""
    return [
        State(h.name, shape.output, axis, initial.row(axis, f"{graph.name}: the state {h.source}"), h.source)
        for (h, initial), shape, axis in zip(hidden, shapes, axes, strict=True)
    ]
