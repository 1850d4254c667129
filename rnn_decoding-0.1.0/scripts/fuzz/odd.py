"""Values of wrong kinds and sizes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

# The sizes at which something overflows.
NUMBERS = (0, 1, -1, 2, 3, 7, 99, -(2**31), 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63))
BEYOND = (*NUMBERS, 2**63, 2**64 - 1, 2**64, 10**30, -(10**30), 10**400)
TEXTS = ("", " ", "tokens", "logits", "no such name", "\0", "é", "\ud800", "x" * 5000, "../x", "/", "1", "null")


def json_value(rng: np.random.Generator, names: list[str], depth: int = 3) -> Any:
    """Something that JSON can hold, built from these names among others."""
    kind = rng.integers(12 if depth else 8)
    match kind:
        case 0:
            return None
        case 1:
            return bool(rng.integers(2))
        case 2:
            return BEYOND[rng.integers(len(BEYOND))]
        case 3:
            return float(rng.choice([0.5, -0.0, 1e300, float("nan"), float("inf"), float("-inf")]))
        case 4:
            return TEXTS[rng.integers(len(TEXTS))]
        case 5 | 6 | 7:
            return names[rng.integers(len(names))] if names else "x"
        case 8 | 9:
            return [json_value(rng, names, depth - 1) for _ in range(rng.integers(4))]
        case _:
            keys = [*names, *TEXTS]
            return {keys[rng.integers(len(keys))]: json_value(rng, names, depth - 1) for _ in range(rng.integers(4))}


class Empty:
    """An object that can do nothing."""


class Index:
    """An object that counts as a whole number."""

    def __index__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return "Index(2)"


class ArrayLike:
    """Converts to an array of objects."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([{}, None], object)


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _own_member() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


_ARRAYS = (
    lambda: np.zeros(0), lambda: np.zeros((0, 3)), lambda: np.zeros((2, 0), np.int64), lambda: np.array(3),
    lambda: np.array([1, 2]), lambda: np.array([[1, 2], [3, 4]]), lambda: np.ones((2, 3, 4), np.float32),
    lambda: np.ones(3, np.float16), lambda: np.ones(3, bool), lambda: np.ones(3, complex), lambda: np.array(["a", "b"]),
    lambda: np.array([None, {}], object), lambda: np.zeros(2, "datetime64[s]"), lambda: np.zeros(2, [("a", "i4")]),
    lambda: np.array([2**63, 2**64 - 1], np.uint64), lambda: np.array([-1, -(2**63)]), lambda: np.full(3, np.nan),
    lambda: np.full((2, 3), -np.inf, np.float32), lambda: np.array([b"a"]), lambda: np.ones((1,) * 32),
    lambda: np.ma.masked_array([1, 2], [True, False]), lambda: np.broadcast_to(np.int64(1), (3, 3)),
    lambda: np.zeros((3, 4), np.float32).T, lambda: np.array([1.5, 2.5]), lambda: np.array([1, 2], ">i8"),
    lambda: np.uint64(2**63), lambda: np.int8(-1), lambda: np.float32("nan"), lambda: np.bool_(True),
    lambda: np.str_("ab"), lambda: np.datetime64("now"), lambda: np.float64(2.5), lambda: np.longdouble(1),
)  # fmt: skip
_OBJECTS = (
    Empty, lambda: Empty, lambda: int, lambda: dict, lambda: len, lambda: print, lambda: lambda *a: a,
    lambda: lambda *a: None, lambda: lambda *a: "text", lambda: Ellipsis, lambda: NotImplemented, Index, ArrayLike,
    lambda: Decimal("2.5"), lambda: 1 + 2j, lambda: range(3), lambda: range(0), lambda: iter([1, 2]),
    lambda: (i for i in range(3)), lambda: memoryview(b"ab"), lambda: bytearray(b"ab"), lambda: b"", lambda: b"\xff\xfe",
    lambda: Path("nowhere"), lambda: Path("."), lambda: open, lambda: type, lambda: ValueError, lambda: ValueError("x"),
    lambda: np, lambda: np.float32, lambda: np.dtype("f4"), lambda: slice(1), lambda: frozenset({1}), lambda: {1, 2},
    set, dict, list, tuple, _own_member, lambda: nested(3), lambda: nested(70), lambda: nested(5000),
    lambda: [1, [2, 3]], lambda: [[1, 2], [3]], lambda: [None], lambda: [None, 1], lambda: ["a", 1], lambda: ["a"],
    lambda: [""], lambda: [1.5], lambda: [True], lambda: [-1], lambda: [2**63], lambda: [2**64, "a"], lambda: [float("nan")],
    lambda: [{}], lambda: [[]], lambda: [()], lambda: [b"a"], lambda: (1, 2, 3), lambda: {"a": 1}, lambda: {1: 2},
    lambda: {None: None}, lambda: {"a": {"b": []}}, lambda: {1: float("nan")}, lambda: {-1: 1}, lambda: {2**63: 1},
    lambda: {1: "a"}, lambda: {"1": 1}, lambda: {1.5: 1}, lambda: {1: 2**63}, lambda: {1: None}, lambda: {0: [1]},
    lambda: [np.array([1, 2]), np.array([[1]])], lambda: [lambda *a: None], lambda: [int], lambda: [print],
    lambda: [Empty()], lambda: [lambda h, x: x.fill(float("nan"))], lambda: [lambda h, x: 3],
)  # fmt: skip
_FLOATS = (0.0, -0.0, 0.5, 1.5, -1.5, 5e-324, 1e-40, 1e38, 1e39, 1e308, float("nan"), float("inf"), float("-inf"))


def anything(rng: np.random.Generator) -> Any:
    """A value of any kind."""
    match rng.integers(10):
        case 0:
            return (None, True, False)[rng.integers(3)]
        case 1 | 2:
            return BEYOND[rng.integers(len(BEYOND))]
        case 3:
            return _FLOATS[rng.integers(len(_FLOATS))]
        case 4:
            return TEXTS[rng.integers(len(TEXTS))]
        case 5 | 6:
            return _ARRAYS[rng.integers(len(_ARRAYS))]()
        case _:
            return _OBJECTS[rng.integers(len(_OBJECTS))]()
