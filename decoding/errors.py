"""The three classes of errors. Every message names the option, input or file at fault, says what was found, and says what to do."""

import operator
from typing import Any


class DecodingError(Exception):
    """Base class of every error that this package raises on purpose."""


class ModelError(DecodingError, ValueError):
    """A model cannot be loaded or run: names the file, the input or output, and what to pass instead."""


class OptionError(DecodingError, ValueError):
    """An argument is wrong: names the argument, the value found and the range expected."""


class DecodeError(DecodingError, RuntimeError):
    """Decoding cannot go on: names the sequence and the step.

    Attributes:
        row: index of the offending row or sequence, or None.
        step: number of the decoding step, or None.
    """

    def __init__(self, message: str, *, row: int | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.step = step


def whole_number(name: str, value: Any, low: int, *, close: str = "") -> int:
    """Return `value` as an int of at least `low`.

    Raises:
        OptionError: it is not; the message starts with ``name=value`` and then `close`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low:
        raise OptionError(f"{name}={value!r}{close}: expected a whole number of at least {low}")
    return number
