"""Operators that only move numbers (Reshape, Slice, Concat and so on), applied to arrays of labels, for plan.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.protobuf import DTYPES
from decoding.model.graph.types import Array

# Takes the node, the value of each input, and which of them have labels; None where it is more than a view.
View = Callable[[Node, Sequence["Array | None"], Sequence[bool]], "list[Array] | None"]


def _same(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    return [_first(values)]


def _cast(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    return [_first(values)] if DTYPES.get(node.attribute("to")) in ("float32", "float64") else None


def _dropout(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    training = len(values) > 2 and values[2] is not None and bool(np.any(values[2]))
    return None if training else [_first(values)]


def _reshape(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    x, given = _first(values), node.attribute("shape") if len(values) < 2 else values[1]
    if given is None or any(labelled[1:]):
        return None
    keeps = not node.attribute("allowzero", 0)
    sizes = [x.shape[i] if n == 0 and keeps else int(n) for i, n in enumerate(np.asarray(given).tolist())]
    return [x.reshape(sizes)]


def _axes(node: Node, values: Sequence[Array | None]) -> list[int] | None:
    given = node.attribute("axes") if len(values) < 2 or values[1] is None else values[1]
    return None if given is None else [int(axis) for axis in np.asarray(given).ravel()]


def _squeeze(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    axes = _axes(node, values)
    return [np.squeeze(_first(values), None if axes is None else tuple(axes))]


def _unsqueeze(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    axes = _axes(node, values)
    return None if axes is None else [np.expand_dims(_first(values), tuple(axes))]


def _flatten(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    x, axis = _first(values), node.attribute("axis", 1)
    return [x.reshape(int(np.prod(x.shape[: axis if axis >= 0 else x.ndim + axis])), -1)]


def _transpose(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    return [_first(values).transpose(node.attribute("perm"))]


def _slice(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    x = _first(values)
    if any(labelled[1:]):
        return None
    given = [values[i] if i < len(values) else None for i in range(1, 5)]
    if len(values) == 1:
        given = [node.attribute("starts"), node.attribute("ends"), node.attribute("axes"), None]
    starts, ends, axes, steps = (None if g is None else np.asarray(g).ravel().tolist() for g in given)
    if starts is None or ends is None:
        return None
    cut = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = 1 if steps is None else steps[i]
        backwards_to_the_front = step < 0 and end < -x.shape[i if axes is None else axes[i]]
        cut[i if axes is None else axes[i]] = slice(start, None if backwards_to_the_front else end, step)
    return [x[tuple(cut)]]


def _split(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    x, axis = _first(values), node.attribute("axis", 0)
    sizes = node.attribute("split") if len(values) < 2 or values[1] is None else values[1]
    count = len(node.outputs)
    if sizes is None:
        one = -(-x.shape[axis] // count)
        sizes = [one] * (count - 1) + [x.shape[axis] - one * (count - 1)]
    return np.split(x, np.cumsum(np.asarray(sizes))[:-1].tolist(), axis)


def _concat(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    if not all(labelled):
        return None
    return [np.concatenate([v for v in values if v is not None], node.attribute("axis", 0))]


def _expand(node: Node, values: Sequence[Array | None], labelled: Sequence[bool]) -> list[Array] | None:
    x, shape = _first(values), values[1]
    if shape is None or any(labelled[1:]):
        return None
    return [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(np.asarray(shape).tolist())))]


def _first(values: Sequence[Array | None]) -> Array:
    assert values[0] is not None
    return values[0]


VIEWS: dict[str, View] = {
    "Identity": _same,
    "Cast": _cast,
    "Dropout": _dropout,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Expand": _expand,
}
