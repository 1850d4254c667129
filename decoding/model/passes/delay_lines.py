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
from decoding.model.graph.history import graph_pass
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
        right: how many entries are added on the right; below 0 as many are taken away.
        cut: the Slice that cuts what a Conv adds on the right.
    """

    node: Node
    x: str
    axis: int
    length: int = 0
    value: float = 0.0
    right: int = 0
    cut: Node | None = None

    @property
    def tensors(self) -> list[str]:
        """The tensor, the node's first two inputs, its result, and what is left of that after the cut."""
        cut = self.cut.outputs[:1] if self.cut is not None else []
        return [self.x, *self.node.inputs[:2], self.node.outputs[0], *cut]


@graph_pass("write delay lines")
def write_delay_lines(
    graph: Graph, roles: Roles, states: Sequence[StateShape], auxiliary_inputs: Sequence[AuxiliaryInput]
) -> tuple[HiddenState, ...]:
    """Rewrite, in place, each padding on the left of the time axis as a Concat; return the states that these hide."""
    if graph.opset < _OPSET:
        return ()
    path = graph.descendants(roles.token) & graph.ancestors(roles.logits)
    nodes = [node for node in graph.nodes if path & set(node.outputs)]
    candidates = [padding for node in nodes for padding in _paddings(graph, roles, node)]
    tensors = list(dict.fromkeys(name for padding in candidates for name in padding.tensors))
    runs = values_at(graph, roles, tensors, states, auxiliary_inputs, _SIZES) if tensors else None
    found: list[HiddenState] = []
    done, resized = set[str](), set[str]()
    for padding in candidates if runs else ():
        values = [dict(zip(tensors, run, strict=True)) for run in runs or ()]
        measured = _measured(padding, [[run[name].shape for name in padding.tensors] for run in values])
        result = padding.node.outputs[0]
        if measured is None or result in done or resized & set(padding.tensors):
            continue
        done.add(result)
        if padding.cut is not None:
            resized.add(result)
        found.append(_write(graph, measured, values[0][padding.x], f"delay_{len(found)}"))
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
    if found is None or value.size != 1 or value.dtype.kind != "f" or (axes is not None and axes.size <= found[0]):
        return
    place, left, right = found
    axis = place if axes is None else int(axes.ravel()[place])
    if left > 0 >= right >= -left and axis >= 0:
        yield _Padding(node, node.input(0), axis, left, float(value.item()), right)


def _of_conv(graph: Graph, node: Node) -> Iterator[_Padding]:
    found = _one_padded(node.attribute("pads") or [])
    if found is None or node.text("auto_pad", "NOTSET") != "NOTSET" or set(node.attribute("strides") or [1]) != {1}:
        return
    place, left, right = found
    padding = _Padding(node, node.input(0), place + 2, left, right=right)
    users, outputs = graph.consumers(node.outputs[0]), {port.name for port in graph.outputs}
    if left > 0 == right:
        yield padding
    elif left > 0 < right and len(users) == 1 and node.outputs[0] not in outputs and _begins_at_0(graph, users[0]):
        yield replace(padding, cut=users[0])


def _of_concat(graph: Graph, roles: Roles, node: Node) -> Iterator[_Padding]:
    before, x = node.inputs
    axis = node.integer("axis", 0)
    inputs = {port.name for port in graph.inputs}
    if axis < 0 or inputs & data_ancestors(graph, before) or roles.token not in data_ancestors(graph, x):
        return
    end = graph.producer(x)
    if end is not None and _begins_at_0(graph, end):
        yield _Padding(node, end.input(0), axis)
    yield _Padding(node, x, axis)


def _one_padded(sizes: Sequence[int]) -> tuple[int, int, int] | None:
    """The only axis that is padded, with its sizes on the left and on the right; None where there is none, or are several."""
    left, right = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    found = [(axis, *pair) for axis, pair in enumerate(zip(left, right, strict=False)) if any(pair)]
    return found[0] if len(found) == 1 else None


def _begins_at_0(graph: Graph, node: Node) -> bool:
    """Return whether a node is a Slice of one axis that begins with its first entry, and leaves none out between."""
    if node.op != "Slice" or graph.sizes(node.input(1)) != [0]:
        return False
    return not node.input(4) or graph.sizes(node.input(4)) == [1]


def _measured(padding: _Padding, runs: Sequence[Sequence[tuple[int, ...]]]) -> _Padding | None:
    """The padding with its sizes, if its axis follows the tokens and the result is that of a delay line; else None.

    Args:
        runs: for each of `_SIZES` the shapes of the padding's `tensors`.
    """
    axis = padding.axis
    if any(len(shape) <= axis for run in runs for shape in (run[0], run[3])) or len({run[0][axis] for run in runs}) < 2:
        return None
    if padding.cut is not None and any(run[4][axis] != run[3][axis] - padding.right for run in runs):
        return None
    if padding.node.op != "Concat":
        return padding
    lengths = {run[1][axis] for run in runs}
    cropped = {run[0][axis] - run[2][axis] for run in runs}
    length, crop = max(lengths), max(cropped)
    if len(lengths) > 1 or len(cropped) > 1 or not 0 <= crop <= length or not length:
        return None
    return replace(padding, length=length, right=-crop)


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
    ends = node.op != "Conv" and padding.right == 0
    delayed = add("Concat", [initial, padding.x], result if ends else f"{name}/delayed", axis=axis)
    axes, end = numbers("axis", axis), numbers("end", _END)
    last = add("Slice", [delayed, numbers("last", -padding.length), end, axes], f"{name}/last_value")
    if node.op == "Conv":
        node.set_input(0, delayed)
        node.drop_attribute("pads")
        if padding.cut is not None:
            padding.cut.become_identity()
    else:
        graph.remove(node)
        if not ends:
            add("Slice", [delayed, numbers("first", 0), numbers("right", padding.right), axes], result)
    graph.edited()
    source = f"the last {padding.length} steps that {what} reads"
    return HiddenState(f"state_{name}", delayed, source, 0, 0, initial, x.dtype, None, last)
