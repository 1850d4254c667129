"""Normalize an exported graph: constants fixed, Ifs decided, layers time-major, contexts batch-first, plain ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError, shown
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import graph_pass
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array, Shape
from decoding.model.roles.infer import Roles, data_ancestors
from decoding.model.runtime.session import Session


def simplify(graph: Graph, constants: Mapping[str, Any]) -> None:
    """Fix the inputs that the caller gave a value, and whatever follows: decided Ifs, layouts, sizes inside weights."""
    fix_constants(graph, constants)
    inline_decided_ifs(graph)
    time_major(graph)
    fix_sizes_in_weights(graph)


@graph_pass("fix constants")
def fix_constants(graph: Graph, values: Mapping[str, Any]) -> None:
    """Turn the inputs that the caller gave a value into constants."""
    for name, value in values.items():
        port = next(p for p in graph.inputs if p.name == name)
        try:
            if port.dtype.kind not in "fiub":
                raise TypeError(port.dtype)
            array = np.asarray(value, port.dtype)
            if port.shape is not None and array.ndim != len(port.shape):
                array = array.reshape([d if isinstance(d, int) else 1 for d in port.shape])
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise OptionError(
                f"roles['constant'][{name!r}]: {shown(value)} does not fit the input {port}; give numbers of its shape"
            ) from error
        graph.fix_input(name, array)


@graph_pass("repeat constants for each row")
def spread_constants(graph: Graph, declared: Mapping[str, Shape], token: str) -> None:
    """Repeat a value that the caller fixed for one row over the batch: along the dimensions that have a name of the token's."""
    dims = list(declared[token] or ())
    for name, shape in declared.items():
        value = graph.constant(name)
        if value is None or shape is None or value.ndim != len(shape):
            continue
        shared = [axis for axis, dim in enumerate(shape) if isinstance(dim, str) and dim in dims]
        if not shared or any(value.shape[axis] != 1 for axis in shared):
            continue
        pieces = []
        for axis, dim in enumerate(shape):
            if axis in shared:
                index = graph.add_initializer(f"{name}/axis{axis}", np.array([dims.index(dim)]))
                size = graph.add_node("Shape", [token], f"{name}/shape{axis}", at=0)
                graph.add_node("Gather", [size, index], f"{name}/size{axis}", at=1)
            else:
                graph.add_initializer(f"{name}/size{axis}", np.array([value.shape[axis]]))
            pieces.append(f"{name}/size{axis}")
        place = 2 * len(shared)
        _feed_from(graph, name, f"{name}/rows")
        graph.add_node("Concat", pieces, f"{name}/sizes", at=place, axis=0)
        graph.add_node("Expand", [name, f"{name}/sizes"], f"{name}/rows", at=place + 1)


@graph_pass("inline decided Ifs")
def inline_decided_ifs(graph: Graph) -> None:
    """Replace every If whose condition no input's value can change with the branch that it takes."""
    undecided: set[str] = set()
    while True:
        candidates = [n for n in graph.nodes if n.op == "If" and n.label not in undecided]
        if not candidates:
            return
        node = candidates[0]
        condition = _decided(graph, node.input(0))
        if condition is None:
            undecided.add(node.label)
        else:
            graph.inline(node, "then_branch" if condition else "else_branch")


def _decided(graph: Graph, condition: str) -> bool | None:
    """The condition's value where constants, or shapes that agree for all sizes, decide it; else None.

    Raises:
        ModelError: it is not one bool.
    """
    if data_ancestors(graph, condition) & {p.name for p in graph.inputs}:
        return None
    values = set()
    for (value,) in _for_sizes(graph, [condition]):
        if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind != "b":
            raise ModelError(
                f"{graph.name}: an If has the condition {condition!r}, {getattr(value, 'dtype', 'no tensor')} of shape {list(getattr(value, 'shape', ()))}; expected one bool: export or copy the file again"
            )
        values.add(bool(value.item()))
    return values.pop() if len(values) == 1 else None


def _for_sizes(graph: Graph, tensors: list[str]) -> list[list[Array]]:
    """These tensors where every dynamic size of the inputs is 1, 2 and 3; nothing where that part of the file does not run."""
    part = graph.part(tensors)
    found = []
    try:
        session = Session(part, threads=1)
        for size in (1, 2, 3):
            sizes = {p.name: [d if isinstance(d, int) else size for d in p.shape or ()] for p in part.inputs}
            feeds = {p.name: np.zeros(sizes[p.name], p.dtype) for p in part.inputs}
            found.append(session.run(feeds, tensors))
    except ModelError:
        return []
    return found


@graph_pass("fix sizes in weights")
def fix_sizes_in_weights(graph: Graph) -> None:
    """Make constants of the sizes by which the graph cuts and re-arranges the weights of its layers.

    Torch's dynamo exporter without its optimizer cuts them by the size of the initial zeros: onnxruntime would do that again
    at every step, 100 microseconds for one LSTM.
    """
    inputs = {p.name for p in graph.inputs}
    weights = [name for node in graph.nodes if node.op in STATE_SLOTS for name in node.inputs[1:4] if name]
    tensors = [
        name
        for name in sorted(graph.ancestors(*weights) - inputs)
        if inputs & graph.ancestors(name) and not inputs & data_ancestors(graph, name)
    ]
    runs = _for_sizes(graph, tensors) if tensors else []
    for name, *values in zip(tensors, *runs, strict=True) if runs else ():
        if values[0].dtype.kind == "i" and all(np.array_equal(values[0], value) for value in values):
            fixed = graph.add_initializer(f"{name}/fixed", values[0])
            _feed_from(graph, name, fixed)


@graph_pass("put time first in layers")
def time_major(graph: Graph) -> None:
    """Transpose recurrent layers of layout=1 (batch first), which onnxruntime refuses, to layout=0."""
    for node in graph.nodes:
        if node.op in STATE_SLOTS and node.integer("layout", 0) == 1:
            _transpose_inputs(graph, node)
            _transpose_outputs(graph, node)
            node.drop_attribute("layout")
            graph.edited()


def _transpose_inputs(graph: Graph, node: Node) -> None:
    for slot in (0, *(slot for slot, _ in STATE_SLOTS[node.op].values())):
        if name := node.input(slot):
            node.set_input(
                slot,
                graph.add_node("Transpose", [name], f"{node.label}/in{slot}", at=graph.place(node), perm=[1, 0, 2]),
            )


def _transpose_outputs(graph: Graph, node: Node) -> None:
    for index, name in enumerate(node.outputs):
        if name:
            inner = f"{node.label}/out{index}"
            node.rename_output(index, inner)
            graph.add_node(
                "Transpose", [inner], name, at=graph.place(node) + 1, perm=[2, 0, 1, 3] if index == 0 else [1, 0, 2]
            )


@graph_pass("plain inputs and outputs")
def plain_ports(graph: Graph, roles: Roles) -> None:
    """Make the token int64 ids, the logits float32, and every dimension of an input or output dynamic."""
    _take_ids(graph, roles)
    _give_float32(graph, roles)
    graph.forget_shapes()
    for port in (*graph.inputs, *graph.outputs):
        if port.shape is not None:
            graph.set_shape(port.name, [None] * len(port.shape))


def _take_ids(graph: Graph, roles: Roles) -> None:
    port = next(p for p in graph.inputs if p.name == roles.token)
    if roles.one_hot is not None and port.shape is not None:
        _feed_from(graph, port.name, f"{port.name}/one_hot")
        depth = graph.add_initializer(f"{port.name}/depth", np.array(roles.one_hot))
        values = graph.add_initializer(f"{port.name}/values", np.array([0, 1], port.dtype))
        graph.add_node("OneHot", [port.name, depth, values], f"{port.name}/one_hot", at=0, axis=-1)
        graph.set_shape(port.name, port.shape[:-1], np.int64)
    elif port.dtype != np.int64:
        users = graph.consumers(port.name)
        if not all(u.op == "Cast" or (u.op == "Gather" and u.input(1) == port.name) for u in users):
            _feed_from(graph, port.name, f"{port.name}/as_{port.dtype}")
            graph.add_node("Cast", [port.name], f"{port.name}/as_{port.dtype}", at=0, to=port.dtype)
        graph.set_shape(port.name, port.shape, np.int64)


def _feed_from(graph: Graph, old: str, new: str) -> None:
    """Make everything that reads `old` read `new`."""
    for user in graph.consumers(old):
        user.replace_input(old, new)
    graph.edited()


def _give_float32(graph: Graph, roles: Roles) -> None:
    port = next(p for p in graph.outputs if p.name == roles.logits)
    if port.dtype != np.float32:
        cast = graph.add_node("Cast", [roles.logits], f"{roles.logits}/as_float32", to=np.dtype(np.float32))
        graph.redirect_output(roles.logits, cast)
        graph.set_shape(cast, port.shape, np.float32)
        roles.logits = cast


@graph_pass("drop sequence lengths")
def drop_lengths(graph: Graph, path: list[Node]) -> None:
    """Remove sequence_lens from the layers that are stepped: a step has no padding."""
    for node in path:
        if node.op in STATE_SLOTS and node.input(4):
            node.set_input(4, "")
    graph.edited()


def check_nodes_run_forward(graph: Graph, path: list[Node], token: str) -> None:
    """Refuse layers that read the sequence from its end.

    Raises:
        ModelError: names the first such layer.
    """
    # Only what the tokens' values reach: torch's legacy exporter reverses the list of a Pad's sizes too (issue 14).
    reversing = [node for node in graph.nodes if _turns_around(graph, node)]
    turning = {name for node in reversing for name in node.outputs if token in data_ancestors(graph, name)}
    for node in path:
        direction = node.text("direction", "forward") if node.op in STATE_SLOTS else "forward"
        read = [name for name in (*node.inputs, *node.captures()) if name]
        turned = turning & set().union(*(data_ancestors(graph, name) for name in read))
        if direction != "forward" or turned:
            how = direction if not turned else f"fed in reverse order, by {min(turned)}"
            raise ModelError(
                f"{graph.name}: the {node.op} layer {node.label!r} is {how}: it reads the sequence from its end, so it is "
                "an encoder and cannot be decoded step by step; export a decoder, whose layers run forward"
            )


def _turns_around(graph: Graph, node: Node) -> bool:
    """Return whether the node reverses a sequence."""
    steps = graph.sizes(node.input(4)) if node.op == "Slice" else None
    return node.op == "ReverseSequence" or any(step < 0 for step in steps or ())


def batch_first(graph: Graph, name: str, axis: int) -> None:
    """Make an input take its batch as the first axis; the file has it at `axis`."""
    shape = next(p.shape for p in graph.inputs if p.name == name) or ()
    order = [axis, *(i for i in range(len(shape)) if i != axis)]
    _feed_from(graph, name, f"{name}/batch{axis}")
    perm = [order.index(i) for i in range(len(shape))]
    graph.add_node("Transpose", [name], f"{name}/batch{axis}", at=0, perm=perm)
    graph.set_shape(name, [shape[i] for i in order])


@graph_pass("put the batch first in inputs")
def put_batch_first(graph: Graph, roles: Roles, declared: Mapping[str, Shape]) -> dict[str, Shape]:
    """Make contexts, their masks and latents take the batch as their first axis; return the new shapes of those that did not."""
    called = {d for d in declared[roles.token] or () if isinstance(d, str)}
    changed: dict[str, Shape] = {}
    for name, kind in roles.auxiliary_inputs.items():
        shape = declared[name] or ()
        named = [axis for axis, d in enumerate(shape) if d in called]
        axis = roles.batch_axis.get(name, named[0] if len(named) == 1 else 0)
        if kind in ("context", "step_context", "source_mask", "latent") and axis:
            batch_first(graph, name, axis)
            changed[name] = (shape[axis], *shape[:axis], *shape[axis + 1 :])
            roles.notes.append(f"{name} takes its batch as axis {axis}: transposed")
    return changed
