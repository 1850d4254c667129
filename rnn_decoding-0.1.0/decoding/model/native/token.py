"""Operators on numbers that follow from the token alone, such as exporters write for ids below 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.protobuf import DTYPES
from decoding.model.graph.types import Array


def _cast(node: Node, x: Array) -> Array:
    return x.astype(DTYPES[node.attribute("to")])


def _ufunc(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda node, *values: np.asarray(function(*values))


# By operator: takes the node and the values of its inputs for each id, [ids, n] or [1, n].
FUNCTIONS: dict[str, Callable[..., Array]] = {
    "Cast": _cast,
    "Add": _ufunc(np.add),
    "Sub": _ufunc(np.subtract),
    "Mul": _ufunc(np.multiply),
    "Less": _ufunc(np.less),
    "LessOrEqual": _ufunc(np.less_equal),
    "Greater": _ufunc(np.greater),
    "GreaterOrEqual": _ufunc(np.greater_equal),
    "Equal": _ufunc(np.equal),
    "Not": _ufunc(np.logical_not),
    "And": _ufunc(np.logical_and),
    "Or": _ufunc(np.logical_or),
    "Where": _ufunc(np.where),
    "Min": _ufunc(np.minimum),
    "Max": _ufunc(np.maximum),
}
