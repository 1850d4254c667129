"""Operators on each number of vectors and constants, as vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.native.cell import ACTIVATIONS
from decoding.model.native.vectors import Function, NotNative, Vector, combined, what

Operand = Vector | Array


def _add(node: Node, a: Operand, b: Operand) -> Vector:
    return _total(node, a, b, 1.0)


def _sub(node: Node, a: Operand, b: Operand) -> Vector:
    return _total(node, a, b, -1.0)


def _total(node: Node, a: Operand, b: Operand, sign: float) -> Vector:
    size = len(a) if isinstance(a, np.ndarray) else a.size
    parts = [(np.full(size, s) if s != 1 else None, v) for s, v in ((1.0, a), (sign, b)) if isinstance(v, Vector)]
    bias = sum((s * v for s, v in ((1.0, a), (sign, b)) if isinstance(v, np.ndarray)), np.zeros(size))
    return combined(parts, bias, node)


def _mul(node: Node, a: Operand, b: Operand) -> Vector:
    if isinstance(a, Vector) and isinstance(b, Vector):
        return Function(a.size, "mul", (a, b), node=node)
    vector, factor = (a, b) if isinstance(a, Vector) else (b, a)
    assert isinstance(vector, Vector)
    assert isinstance(factor, np.ndarray)
    return combined([(factor, vector)], np.zeros(vector.size), node)


def _div(node: Node, a: Operand, b: Operand) -> Vector:
    if isinstance(b, Vector) or not np.all(b):
        raise NotNative(f"{what(node)} divides by what is computed")
    return _mul(node, a, 1 / b)


def _neg(node: Node, a: Operand) -> Vector:
    return _mul(node, a, np.full(_vector(a).size, -1.0))


def _activation(node: Node, a: Operand) -> Vector:
    name, alpha, beta = ACTIVATIONS[node.op.lower()]
    alpha, beta = (node.attribute(k, d) for k, d in (("alpha", alpha), ("beta", beta)))
    return Function(_vector(a).size, name, (_vector(a),), float(alpha), float(beta), node=node)


def _clip(node: Node, a: Operand, *bounds: Operand) -> Vector:
    low, high = node.attribute("min", -np.inf), node.attribute("max", np.inf)
    given = [b for b in bounds if isinstance(b, np.ndarray)]
    if given:
        if len(given) != 2:
            raise NotNative(f"{what(node)} has one bound")
        low, high = float(given[0][0]), float(given[1][0])
    return Function(_vector(a).size, "clip", (_vector(a),), float(low), float(high), node=node)


def _vector(a: Operand) -> Vector:
    assert isinstance(a, Vector)
    return a


# Of an operator and its operands, each a vector or float64 [size] that all rows have: the vector that it computes.
ELEMENTWISE: dict[str, Callable[..., Vector]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Neg": _neg,
    "Clip": _clip,
    **dict.fromkeys(("Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid", "LeakyRelu"), _activation),
}
