"""Delay lines: the last inputs of causal convolutions and of token shifts, written so that they can be exposed as states.

A causal convolution sees its last (kernel - 1) * dilation inputs, and before the first of them zeros. Exporters write
the zeros as a Pad or a Concat on the left of the time axis, or as a Conv that pads both ends and a Slice that cuts the
right one. `write_delay_lines` makes of each a Concat of an initial value and the input. The graph computes the same;
the Concat's last entries are the next state, and its first input takes the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.passes.dynamic_shapes import values_at
from decoding.model.passes.expose_states import HiddenState
from decoding.model.roles.infer import Roles, data_ancestors
from decoding.model.runtime.session import constant_values
from decoding.model.verify.layouts import StateShape

# (batch, time) of the runs that show which axis is the time.
_SIZES = ((2, 3), (3, 3), (2, 5))
# Slice takes its bounds as inputs from opset 10 on, Pad its sizes from 11 on.
_OPSET = 11
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Padding:
    """What may pad a tensor on the left of an axis.

    Attributes:
        node: the Pad, Concat or Conv.
        x: the tensor, without what is padded or cropped.
        axis: where it is padded.
        length: how many entries are added; 0 where a Concat's first input has them.
        value: the number that a Pad or a Conv adds.
        crop: how many entries a Pad takes away on the right.
        cut: the Slice that cuts what a Conv adds on the right.
    """

    node: Node
    x: str
    axis: int
    length: int = 0
    value: float = 0.0
    crop: int = 0
    cut: Node | None = None


def write_delay_lines(
    graph: Graph, roles: Roles, states: Sequence[StateShape], auxiliary_inputs: Sequence[AuxiliaryInput]
) -> tuple[HiddenState, ...]:
    """Rewrite, in place, each padding on the left of the time axis as a Concat; return the states that these hide."""
    if graph.opset < _OPSET:
        return ()
    path = graph.descendants(roles.token) & graph.ancestors(roles.logits)
    found: list[HiddenState] = []
    for node in [node for node in graph.nodes if path & set(node.outputs)]:
        for padding in _paddings(graph, roles, node):
            tensors = [padding.x, *node.inputs[:2], node.outputs[0], *(padding.cut.outputs if padding.cut else ())]
            runs = values_at(graph, roles, tensors, states, auxiliary_inputs, _SIZES)
            measured = runs and _measured(padding, [[value.shape for value in run] for run in runs])
            if runs and measured:
                found.append(_write(graph, measured, runs[0][0], f"delay_{len(found)}"))
                break
    return tuple(found)


def _paddings(graph: Graph, roles: Roles, node: Node) -> Iterator[_Padding]:
    """The ways in which a node may pad a tensor of the tokens, the most specific one first."""
    if node.op == "Pad" and node.text("mode", "constant") == "constant":
        yield from _of_pad(graph, node)
    elif node.op == "Conv":
        yield from _of_conv(graph, node)
    elif node.op == "Concat" and len(node.inputs) == 2:
        yield from _of_concat(graph, roles, node)


def _of_pad(graph: Graph, node: Node) -> Iterator[_Padding]:
    slots = [slot for slot in (1, 2, 3) if node.input(slot)]
    values = constant_values(graph, [node.input(slot) for slot in slots])
    given = dict(zip(slots, values or (), strict=False))
    sizes, value, axes = given.get(1, np.zeros(0)), given.get(2, np.zeros(1)), given.get(3)
    found = _one_padded(sizes.ravel().tolist())
    if found is None or value.size != 1 or value.dtype.kind != "f":
        return
    place, left, right = found
    axis = place if axes is None else int(axes.ravel()[place])
    if left > 0 >= right >= -left and axis >= 0:
        yield _Padding(node, node.input(0), axis, left, float(value.item()), crop=-right)


def _of_conv(graph: Graph, node: Node) -> Iterator[_Padding]:
    found = _one_padded(node.attribute("pads") or [])
    if found is None or node.text("auto_pad", "NOTSET") != "NOTSET" or set(node.attribute("strides") or [1]) != {1}:
        return
    place, left, right = found
    padding = _Padding(node, node.input(0), place + 2, left)
    users = graph.consumers(node.outputs[0])
    if left > 0 == right:
        yield padding
    elif left > 0 < right and len(users) == 1 and _cuts_the_end(graph, users[0], padding.axis):
        yield replace(padding, cut=users[0])


def _of_concat(graph: Graph, roles: Roles, node: Node) -> Iterator[_Padding]:
    before, x = node.inputs
    axis = node.integer("axis", 0)
    inputs = {port.name for port in graph.inputs}
    if axis < 0 or inputs & data_ancestors(graph, before) or roles.token not in data_ancestors(graph, x):
        return
    end = graph.producer(x)
    if end is not None and _cuts_the_end(graph, end, axis):
        yield _Padding(node, end.input(0), axis)
    yield _Padding(node, x, axis)


def _one_padded(sizes: Sequence[int]) -> tuple[int, int, int] | None:
    """The only axis that is padded, with its sizes on the left and on the right; None where there is none, or are several."""
    left, right = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    found = [(axis, *pair) for axis, pair in enumerate(zip(left, right, strict=False)) if any(pair)]
    return found[0] if len(found) == 1 else None


def _cuts_the_end(graph: Graph, node: Node, axis: int) -> bool:
    """Return whether a node is a Slice of the axis that begins with its first entry, and leaves none out between."""
    if (
        node.op != "Slice"
        or graph.sizes(node.input(1)) != [0]
        or graph.sizes(node.input(3)) not in ([axis], [axis - 3])
    ):
        return False
    return not node.input(4) or graph.sizes(node.input(4)) == [1]


def _measured(padding: _Padding, runs: Sequence[Sequence[tuple[int, ...]]]) -> _Padding | None:
    """The padding with its sizes, if its axis follows the tokens and the result is that of a delay line; else None.

    Args:
        runs: for each of `_SIZES` the shapes of the tensor, of the node's two inputs, of its result and of the cut one.
    """
    axis = padding.axis
    if any(len(shape) <= axis for run in runs for shape in (run[0], run[3])) or len({run[0][axis] for run in runs}) < 2:
        return None
    if padding.node.op == "Conv":
        right = (padding.node.attribute("pads") or [0])[-1]
        return padding if padding.cut is None or all(run[4][axis] == run[3][axis] - right for run in runs) else None
    if padding.node.op == "Pad":
        return padding
    lengths = {run[1][axis] for run in runs}
    crops = {run[0][axis] - run[2][axis] for run in runs}
    length, crop = max(lengths), max(crops)
    return replace(padding, length=length, crop=crop) if lengths == {length} and crops == {crop} and 0 <= crop <= length > 0 else None  # fmt: skip


def _write(graph: Graph, padding: _Padding, x: Array, name: str) -> HiddenState:
    """Write a padding as a Concat; return the state that it then hides."""
    node, axis, at = padding.node, padding.axis, graph.place(padding.node)
    result, what = node.outputs[0], f"{node.op} {node.label}"

    def numbers(label: str, *values: int) -> str:
        return graph.add_initializer(f"{name}/{label}", np.array(values, np.int64))

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nonlocal at
        at += 1
        return graph.add_node(op, inputs, output, at=at - 1, **attributes)

    if node.op == "Concat":
        initial = node.input(0)
    else:
        is_axis = graph.add_initializer(f"{name}/is_axis", np.arange(x.ndim) == axis)
        value = graph.add_initializer(f"{name}/value", np.array(padding.value, x.dtype))
        sizes = add("Where", [is_axis, numbers("length", padding.length), add("Shape", [padding.x], f"{name}/shape")], f"{name}/sizes")  # fmt: skip
        initial = add("Expand", [value, sizes], f"{name}/initial")
    own = node.op == "Conv" or padding.crop
    delayed = add("Concat", [initial, padding.x], f"{name}/delayed" if own else result, axis=axis)
    axes, end = numbers("axis", axis), numbers("end", _END)
    last = add("Slice", [delayed, numbers("last", -padding.length), end, axes], f"{name}/last_value")
    if node.op == "Conv":
        node.set_input(0, delayed)
        node.drop_attribute("pads")
        if padding.cut is not None:
            padding.cut.become_identity()
    else:
        graph.remove(node)
        if padding.crop:
            add("Slice", [delayed, numbers("first", 0), numbers("crop", -padding.crop), axes], result)
    graph.edited()
    source = f"the last {padding.length} steps that {what} reads"
    return HiddenState(f"state_{name}", delayed, source, 0, 0, initial, x.dtype, None, last)
