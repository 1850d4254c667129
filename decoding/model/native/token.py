"""Operators on numbers that follow from the token alone, such as exporters write for ids below 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.protobuf import DTYPES
from decoding.model.graph.types import Array


def _cast(node: Node, x: Array) -> Array:
    return x.astype(DTYPES[node.attribute("to")])


def _of_numbers(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda node, *values: function(*values)


# By operator: takes the node and the values of its inputs for each id, [ids, n] or [1, n].
FUNCTIONS: dict[str, Callable[..., Array]] = {
    "Cast": _cast,
    **{
        op: _of_numbers(function)
        for op, function in {
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Less": np.less,
            "LessOrEqual": np.less_equal,
            "Greater": np.greater,
            "GreaterOrEqual": np.greater_equal,
            "Equal": np.equal,
            "Not": np.logical_not,
            "And": np.logical_and,
            "Or": np.logical_or,
            "Where": np.where,
            "Min": np.minimum,
            "Max": np.maximum,
        }.items()
    },
}
