"""The runs that `load()` makes of an unknown file: Ctrl-C ends them, and each has a time limit.

onnxruntime blocks the thread that calls it, so while a run goes on, Python sees neither Ctrl-C nor the clock, and a
Loop of 2**62 iterations never ends (issue 13). So `interruptible` does the work in a thread of its own, which the
caller's thread watches.
"""

from __future__ import annotations

import _thread
import atexit
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import onnxruntime as ort

from decoding.errors import ModelError

P = ParamSpec("P")
R = TypeVar("R")

# A run may take this long, and a second more for this many bytes of weights: load() runs at most 336 tokens at once, for
# which a core that is fifty times slower than usual has the time.
RUN_SECONDS = 10.0
BYTES_A_SECOND = 5e6
# How often the clock is read, and how long a run may take to end after it was told to, before it is left alone.
_TICK = 0.05
_PATIENCE = 2.0
# How long the process waits at its end for a run that it left alone.
_EXIT_PATIENCE = 5.0


class Stopped(BaseException):
    """The work of an `interruptible` function is to end: no handler of errors may go on with another attempt."""


class _Run:
    """One run that goes on: what it is, since when, and the options that can end it."""

    def __init__(self, what: str, seconds: float, options: ort.RunOptions) -> None:
        self.what, self.seconds, self.options = what, seconds, options
        self.began = time.monotonic()

    @property
    def late(self) -> float:
        """Seconds that it has taken over its limit; negative before that."""
        return time.monotonic() - self.began - self.seconds


class RunLimit:
    """The runs of one call of an `interruptible` function."""

    def __init__(self) -> None:
        self.error: ModelError | None = None
        self._stopped = False
        self._run: _Run | None = None

    def run(self, call: Callable[[ort.RunOptions], R], what: str, seconds: float, options: ort.RunOptions) -> R:
        """Return ``call(options)``, a run by onnxruntime.

        Args:
            what: the model and its inputs, for the message.
            seconds: how long it may take.

        Raises:
            Stopped: it took longer, or the caller was interrupted.
        """
        self._run = _Run(what, seconds, options)
        self.check()  # after the assignment: whoever stops between the two finds the run
        try:
            return call(options)
        except Exception:
            self.check()
            raise
        finally:
            self._run = None

    def check(self) -> None:
        """End the work if it was stopped.

        Raises:
            Stopped: it was.
        """
        if self._stopped:
            raise Stopped

    def stop(self) -> None:
        """End the run that goes on, and all work at its next run."""
        self._stopped = True
        run = self._run
        if run is not None:
            run.options.terminate = True

    def watch(self) -> None:
        """End a run that takes too long.

        Raises:
            ModelError: it does not end: such as a Loop with an empty body, in which onnxruntime looks at nothing.
        """
        run = self._run
        if run is None or run.late < 0:
            return
        if self.error is None:
            self.error = ModelError(
                f"{run.what} took more than {run.seconds:.3g} s, so it was stopped: load() runs a file on small inputs to find its layouts and to verify it. "
                "Look for a Loop without end; a large file on a busy machine may load with verify=False, which leaves out the longest runs"
            )
            self.stop()
        elif run.late > _PATIENCE:
            raise self.error


_LIMIT: ContextVar[RunLimit | None] = ContextVar("limit of runs", default=None)


def run_limit() -> RunLimit | None:
    """The limit of the `interruptible` function that this is part of; None outside."""
    return _LIMIT.get()


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """Make Ctrl-C end a function at once, and limit the time of each `Session.run` in it.

    The work is done in a thread. After Ctrl-C an operator that runs goes on to its end there, and its result is dropped.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if run_limit() is not None:
            return function(*args, **kwargs)
        limit, outcome = RunLimit(), dict[str, Any]()
        # Not threading.Thread and Event: their Python code is not made to be interrupted halfway.
        working = _thread.allocate_lock()
        working.acquire()

        def work() -> None:
            try:
                _LIMIT.set(limit)
                outcome["result"] = function(*args, **kwargs)
            except BaseException as error:
                outcome["error"] = error
            finally:
                working.release()

        try:
            _thread.start_new_thread(copy_context().run, (work,))
            while not working.acquire(timeout=_TICK):
                limit.watch()
        except BaseException:
            limit.stop()
            if not working.acquire(timeout=_TICK):  # onnxruntime must not be torn down under a run
                atexit.register(working.acquire, timeout=_EXIT_PATIENCE)
            raise
        try:
            if limit.error is not None:
                raise limit.error
            if "error" in outcome:
                raise outcome["error"]
            result: R = outcome["result"]
            return result
        finally:
            outcome.clear()  # an error holds the frames, and these hold it

    return call
