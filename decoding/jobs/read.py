"""What a job reads: rows, from an iterable or from nothing but their number; `decoding.jobs.files` has the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from decoding.errors import DecodeError, OptionError, shown


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an input.

    Attributes:
        number: its place in the input, from 0; lines are counted, also where some of them are empty.
        id: what the input calls it, else its number; None where that cannot be read.
        value: a prompt, a dict of fields, or a `Request`; what was found, where the row is bad.
        reason: why the row cannot be read; None where it can.
    """

    number: int
    id: str | int | None
    value: Any
    reason: str | None = None


class Input(Protocol):
    """What a job reads."""

    def describe(self) -> dict[str, Any]:
        """Return what tells this input from another, as JSON takes it: `scan()` has been called."""

    def scan(self) -> int | None:
        """Read the input once, for its fingerprint; return how many rows it has, None where that is not known."""

    def rows(self) -> Iterator[Row]:
        """Yield every row, good or bad."""

    def has_changed(self) -> bool:
        """Return whether it is seen to be another than when `scan()` read it."""

    @property
    def only_text(self) -> bool:
        """Whether it can hold nothing but texts, so that ids are written as words."""

    @property
    def numbered(self) -> bool:
        """Whether no row has an id but its number."""


class NumberedInput:
    """Rows without anything: each starts from BOS, or from noise."""

    only_text = False
    numbered = True

    def __init__(self, count: int) -> None:
        self._count = count

    def describe(self) -> dict[str, Any]:
        """Return their number."""
        return {"num": self._count}

    def scan(self) -> int:
        """Return their number."""
        return self._count

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        return (Row(number, number, None) for number in range(self._count))

    def has_changed(self) -> bool:
        """Return False."""
        return False


class IterableInput:
    """What a caller has in Python: prompts, `Request` objects, and dicts of their fields that may have an id."""

    only_text = numbered = False

    def __init__(self, requests: Iterable[Any]) -> None:
        self._requests = requests

    def describe(self) -> dict[str, Any]:
        """Return that it is one: a job that goes on must be given the same again, which cannot be checked."""
        return {"kind": "iterable"}

    def scan(self) -> int | None:
        """Return how many there are, where it says so."""
        return len(self._requests) if isinstance(self._requests, Sized) else None

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        return (row_of(number, value) for number, value in enumerate(self._requests))

    def has_changed(self) -> bool:
        """Return False: it cannot be seen."""
        return False


def row_of(number: int, value: Any) -> Row:
    """Return the row of a value that may be an object with an id."""
    if not isinstance(value, Mapping):
        return Row(number, number, value)
    fields = {name: own for name, own in value.items() if name != "id"}
    return with_id(number, value["id"], fields, value) if "id" in value else Row(number, number, fields)


def with_id(number: int, id: Any, value: Any, found: Any = None) -> Row:
    found = value if found is None else found
    if isinstance(id, bool) or not isinstance(id, str | int):
        return Row(number, None, found, f"id {shown(id)}: expected a string or a whole number")
    if isinstance(id, str) and not is_unicode(id):
        return Row(number, None, found, f"id {shown(id)}: not Unicode")
    return Row(number, id, value)


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def pyarrow_module(name: str, what: str) -> Any:
    """Return a module of pyarrow.

    Raises:
        OptionError: it is not installed, or does not suit what is.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise OptionError(f"{what}: Parquet needs pyarrow; pip install 'rnn-decoding[parquet]'") from error
    except ImportError as error:  # pyarrow says no to an old NumPy so
        raise OptionError(f"{what}: Parquet needs pyarrow, which cannot be imported: {error}") from error


def cannot_read(path: object, error: OSError) -> DecodeError:
    """Return the error of an input that cannot be read any more."""
    return DecodeError(f"input {path}: cannot be read: {error}; the same call goes on from here")
