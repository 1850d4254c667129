"""`Outputs`: the iterator that decode_iter() and stream() return."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from decoding.errors import DecodeError

T = TypeVar("T")


class Outputs(Iterator[T], Generic[T]):
    """Results as they are made; a context manager, which `close()` ends before the last of them.

    One next() runs at a time. An iterable of prompts that calls next() on the results it feeds would decode inside the
    decoding of its prompt: with `itertools.chain` in between this ended the process (issue 13), a generator notices.

    Args:
        function: the function that returns it, in messages.
        results: makes them; closing it stops what runs.
    """

    def __init__(self, function: str, results: Generator[T]) -> None:
        self._function, self._results = function, results

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Return the next result.

        Raises:
            DecodeError: another next() is running; and whatever decoding raises.
        """
        try:
            return next(self._results)
        except ValueError:
            self._check_not_running("next()")
            raise

    def close(self) -> None:
        """Stop decoding, with all its threads; results that were not taken are lost. It may be called again.

        Raises:
            DecodeError: a next() is running.
        """
        try:
            self._results.close()
        except ValueError:
            self._check_not_running("close()")
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<results of {self._function}()>"

    def _check_not_running(self, called: str) -> None:
        """Say what is wrong where a ValueError came from a generator that still runs: somebody else had entered it before."""
        if inspect.getgeneratorstate(self._results) == inspect.GEN_RUNNING:
            raise DecodeError(
                f"{self._function}(): {called} was called while next() is running, by the iterable of prompts, by a "
                "function that the call was given, or in another thread; take results only where none is being made"
            ) from None
