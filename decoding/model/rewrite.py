"""Rewriting an exported graph into a step graph: plain ports, open states, logits instead of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decoding.errors import ModelError
from decoding.model.graph import VIEW_OPS, Array, Graph, Node
from decoding.model.roles import STATE_SLOTS, Roles, recurrent_path


@dataclass(frozen=True)
class Opened:
    """A recurrent state that was hidden in the graph and is now an input and an output.

    Attributes:
        initial: the tensor that used to start it in the original graph, empty where ONNX's default (zeros) does.
    """

    input: str
    output: str
    initial: str
    hidden_size: int
    source: str


def plain_ports(graph: Graph, roles: Roles) -> None:
    """Let the token be int64 and the logits float32, and free every dimension that the export fixed."""
    _take_int64(graph, roles.token)
    _give_float32(graph, roles)
    graph.forget_shapes()
    for port in (*graph.inputs, *graph.outputs):
        if port.shape is not None:
            graph.set_shape(port.name, [None] * len(port.shape))


def _take_int64(graph: Graph, token: str) -> None:
    port = next(p for p in graph.inputs if p.name == token)
    if port.dtype == np.int64:
        return
    users = graph.consumers(token)
    if not all(u.op == "Cast" or (u.op == "Gather" and u.input(1) == token) for u in users):
        cast = f"{token}/as_{port.dtype}"
        for user in users:
            for index, name in enumerate(user.inputs):
                if name == token:
                    user.set_input(index, cast)
        graph.edited()
        graph.add_node("Cast", [token], cast, at=0, to=port.dtype)
    graph.set_shape(token, port.shape, np.int64)


def _give_float32(graph: Graph, roles: Roles) -> None:
    port = next(p for p in graph.outputs if p.name == roles.logits)
    if port.dtype != np.float32:
        cast = graph.add_node("Cast", [roles.logits], f"{roles.logits}/as_float32", to=np.dtype(np.float32))
        graph.redirect_output(roles.logits, cast)
        graph.set_shape(cast, port.shape, np.float32)
        roles.logits = cast


def open_states(graph: Graph, roles: Roles) -> list[Opened]:
    """Give every recurrent layer on the path whose state is hidden a state input and output of its own.

    Only the layers between token and logits count: following just the data from the token keeps the shape
    arithmetic, with which exporters size their initial zeros, out of the way.
    """
    opened = []
    fed = set().union(*(graph.descendants(name) for name in roles.states))
    for number, node in enumerate(recurrent_path(graph, roles.token, roles.logits)):
        for state, (slot, out) in STATE_SLOTS[node.op].items():
            initial = node.input(slot)
            if initial in fed:
                continue
            size = _hidden_size(graph, node, state)
            name = graph.add_input(f"state_{number}_{state}", np.float32, [1, None, size])
            node.set_input(slot, name)
            output = node.output(out, f"state_{number}_{state}_out")
            graph.edited()
            graph.add_output(output, np.float32, [1, None, size])
            opened.append(Opened(name, output, initial, size, f"hidden in {node.op} {node.label}"))
    return opened


def _hidden_size(graph: Graph, node: Node, state: str) -> int:
    size = node.attribute("hidden_size")
    if size is None:
        weights = graph.constant(node.input(2))
        if weights is None:
            raise ModelError(
                f"{graph.name}: the {node.op} layer {node.label!r} has no hidden_size and no constant weights; export it again"
            )
        size = weights.shape[2]
    return int(size)


def cut_softmax(graph: Graph, roles: Roles) -> None:
    """Take the final Softmax or LogSoftmax away, so that the kernels see logits."""
    name = roles.logits
    while (node := graph.producer(name)) is not None and node.op in VIEW_OPS:
        name = node.input(0)
    if node is not None and node.op in ("Softmax", "LogSoftmax"):
        roles.output = "probs" if node.op == "Softmax" else "logprobs"
        roles.notes.append(f"the final {node.op} was cut: the kernels normalise")
        node.become_identity()


def initial_tensors(opened: Sequence[Opened]) -> dict[str, type]:
    """The tensors of the original graph that started the opened states, for one run of `Graph.part`."""
    return {o.initial: np.float32 for o in opened if o.initial}


def initial_value(graph: Graph, opened: Opened, values: dict[str, Array]) -> Array:
    """The value, for one row, that an opened state had before the first token.

    Raises:
        ModelError: the rows of a fixed batch start differently, so that no single start can be told.
    """
    if not opened.initial:
        return np.zeros((1, 1, opened.hidden_size), np.float32)
    value = values[opened.initial]
    if (value != value[:, :1]).any():
        raise ModelError(f"{graph.name}: the state {opened.source} starts differently in each row of its fixed batch of {value.shape[1]}; "
                         "export the model with a batch of one")  # fmt: skip
    return np.ascontiguousarray(value[:, :1])
