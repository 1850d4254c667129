"""Searches in threads: results come out, with a bound; the threads stop when the caller leaves.

Everything between the threads goes through `queue.SimpleQueue`, each of whose operations is one C call: Ctrl-C in the
caller's thread cannot leave a lock held, as it can inside the Python code of `threading.Condition`, `Event` and
`Semaphore` (issue 13).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterable, Iterator
from queue import SimpleQueue

from decoding.engine.forks import using
from decoding.engine.request import FinishedSequence, RequestQueue
from decoding.errors import DecodeError
from decoding.model.network import Network

# How long leaving waits for threads: they end after their present step. One that is longer under way (in a caller's
# processor, say) is a daemon, is told to stop, and takes nothing any more.
_PATIENCE = 10.0

# Results that may wait for the caller, however large the batch is.
_MOST_WAITING = 1024


Event = FinishedSequence | BaseException | None  # None: a thread has ended


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        KeyboardInterrupt: Ctrl-C came meanwhile, also where it came between two lines of `threading.Condition`, which makes
            "release unlocked lock" of it (1 of 40 with CPython 3.14t on a busy machine).
    """
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


def wait_for(thread: threading.Thread, deadline: float) -> None:
    """Wait until a thread has ended, but not longer than until a time of `time.monotonic()`.

    One that Ctrl-C stopped from starting is not waited for: if it starts after all, it ends at once.
    """
    while thread.ident is not None and thread is not threading.current_thread():
        try:
            return thread.join(max(0.0, deadline - time.monotonic()))
        except RuntimeError:  # Ctrl-C came while it was starting: it runs, and Python refuses to join it yet
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)


class Workers:
    """The threads of a call.

    Args:
        model: what the caller decodes with.
        queue: what they take rows from.
        bound: results that may wait for the caller; searches pause after that many.
    """

    def __init__(self, network: Network, queue: RequestQueue, bound: int) -> None:
        self._network, self._queue = network, queue
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(min(bound, _MOST_WAITING)):
            self._permits.put(None)
        self._threads: list[threading.Thread] = []

    def start(self, searches: Iterable[Iterator[FinishedSequence]]) -> None:
        """Start a thread for each search."""
        _LIVE.add(self)
        for search in searches:
            # A daemon, as a thread that is none would be waited for at exit before anything could stop it.
            thread = threading.Thread(target=self._work, args=(search,), daemon=True)
            self._threads.append(thread)
            start_thread(thread)

    def results(self) -> Iterator[FinishedSequence]:
        """Yield sequences as they finish. An error in one of the threads is raised here."""
        running = len(self._threads)
        with using(self._network, in_threads=True):
            while running:
                match self._events.get():
                    case None:
                        running -= 1
                    case FinishedSequence() as finished:
                        self._permits.put(None)
                        yield finished
                    case BaseException() as error:
                        raise error

    def stop(self) -> None:
        """Stop every thread and wait until it has ended, within a time limit; may be called again."""
        self._queue.stopped.set()
        for _ in self._threads:
            self._permits.put(None)
        deadline = time.monotonic() + _PATIENCE
        for thread in self._threads:
            wait_for(thread, deadline)
        self._threads = [thread for thread in self._threads if thread.is_alive()]  # see LiveSearches.stop()
        _LIVE.discard(self)

    def after_fork(self) -> None:
        """In a forked child, which has none of the threads: tell so instead of waiting for them."""
        self._queue.stopped.set()
        self._threads.clear()
        self._events = SimpleQueue()
        self._events.put(
            DecodeError(
                f"{self._network.name}: this call decodes in threads of the process that was forked, which its child does "
                "not have; start the call in the child, with a model that is loaded there"
            )
        )

    def _work(self, search: Iterator[FinishedSequence]) -> None:
        stopped = self._queue.stopped
        try:
            if not stopped.is_set():
                for finished in search:
                    self._permits.get()
                    if stopped.is_set():
                        break
                    self._events.put(finished)
        except BaseException as error:  # handed to the caller's thread
            self._events.put(error)
        finally:
            self._events.put(None)


_LIVE: set[Workers] = set()


def _stop_all() -> None:
    """At exit: a daemon thread that comes back from native code while Python is taken down aborts the process."""
    for group in list(_LIVE):
        group.stop()


def _after_fork() -> None:
    for group in list(_LIVE):
        group.after_fork()
    _LIVE.clear()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
