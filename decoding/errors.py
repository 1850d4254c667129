"""The classes of errors. Every message names the option, input or file at fault, says what was found, and says what to do."""

from __future__ import annotations

import math
import operator
from typing import Any

# Whole numbers beyond this are no sizes or counts of anything, and do not fit the integers of the kernels.
LIMIT = 2**62


class DecodingError(Exception):
    """Base class of every error that this package raises on purpose."""


class ModelError(DecodingError, ValueError):
    """A model cannot be loaded or run: names the file, the input or output, and what to pass instead."""


class OptionError(DecodingError, ValueError):
    """An argument is wrong: names the argument, the value found and the range expected."""


class DecodeError(DecodingError, RuntimeError):
    """Decoding cannot continue: names the sequence and the step.

    Attributes:
        row: index of the offending row or sequence, or None.
        step: number of the decoding step, or None.
    """

    def __init__(self, message: str, *, row: int | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.step = step

    def of_sequence(self, sequence: int, step: int) -> DecodeError:
        """Return a kernel's error, which names a row of the batch, as that of a sequence."""
        advice = "check the weights, the inputs and the processors"
        return DecodeError(f"sequence {sequence}, step {step}: {self}; {advice}", row=sequence, step=step)


class QueueFull(DecodingError, RuntimeError):
    """An `Engine` has as many requests waiting as it takes: try again later, or with a larger `max_queue`."""


class Cancelled(DecodingError, RuntimeError):
    """A request of an `Engine` was cancelled, or the engine was closed before the request had finished."""


def shown(value: Any) -> str:
    """Return a value as messages show it: its repr, cut where it is long, and its type where it has none."""
    try:
        text = repr(value)
    except Exception:  # nested too deep, an int of more digits than Python prints, a repr of the caller's that fails
        return f"<{type(value).__name__}>"
    return text if len(text) <= 200 else text[:197] + "..."


def whole_number(name: str, value: Any, low: int, *, below: int = LIMIT, close: str = "") -> int:
    """Return `value` as an int of at least `low`, and below a power of two.

    Raises:
        OptionError: it is not; the message starts with ``name=value`` and then `close`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low:
        raise OptionError(f"{name}={shown(value)}{close}: expected a whole number of at least {low}")
    if number >= below:
        raise OptionError(f"{name}={shown(value)}{close}: expected a whole number below 2**{below.bit_length() - 1}")
    return number


def finite_number(value: Any) -> float | None:
    """Return a real number that is no bool, as a float; None for anything else, infinities and what no float can hold."""
    try:
        number = float(value) if isinstance(value, int | float) or _is_numpy_number(value) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _is_numpy_number(value: Any) -> bool:
    return getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u", "f")


def check_flag(name: str, value: Any, *, close: str = "") -> bool:
    """Return `value`, which is True or False.

    Raises:
        OptionError: it is neither.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name}={shown(value)}{close}: expected True or False")
    return value
