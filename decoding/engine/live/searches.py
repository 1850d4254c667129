"""Decodes requests that come while others run, in threads of its own."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

from decoding.engine.encode import encoded, limited_rows, with_latents_of
from decoding.engine.flags import Flag
from decoding.engine.forks import using
from decoding.engine.request import (
    Call,
    EngineRequest,
    FailedRequest,
    FinishedSequence,
    Row,
    RunningOutput,
    empty_output,
)
from decoding.engine.search.mixed import MixedSearch
from decoding.engine.search.prefixes import with_prefixes_read
from decoding.engine.workers import start_thread, wait_for
from decoding.errors import OptionError
from decoding.model.network import Network

# How long stopping waits for a thread, which ends after its present step; see `decoding.engine.workers`.
_PATIENCE = 10.0


class Listener(Protocol):
    """What hears of results. All methods are called in the threads of `LiveSearches`."""

    def finished(self, sequence: FinishedSequence) -> None:
        """A sequence has finished."""

    def failed(self, request: EngineRequest, error: Exception) -> None:
        """An error has ended a request."""

    def chosen(self, output: RunningOutput) -> None:
        """A followed request has these tokens so far, of a row that runs."""


@dataclass
class Taken:
    """A request of which some outputs have no row yet.

    Attributes:
        output: the number of the next one.
    """

    request: EngineRequest
    output: int = 0


class LiveSearch:
    """One thread with a batch, which takes requests from `waiting` as its slots get free; it is what its searches take rows from.

    What threads share is in C: one operation on a deque or a `SimpleQueue` is one call, so that Ctrl-C cannot leave a lock
    held (issue 13).

    Args:
        waiting: requests that no thread has taken yet, the first come first.
        rows: how many run together.
        left: called for each request that leaves `waiting`.
    """

    def __init__(
        self,
        network: Network,
        call: Call,
        rows: int,
        waiting: deque[EngineRequest],
        listener: Listener,
        left: Callable[[], None],
    ) -> None:
        self.stopped, self.step_by_step = Flag(), Flag()
        self._network, self._call, self._count, self._listener, self._left = network, call, rows, listener, left
        self._waiting, self._taken = waiting, deque[Taken]()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._notices: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._followed = set[int]()
        # Requests that have left `waiting` and have not ended, with how many of their outputs have finished.
        self._open: dict[int, tuple[EngineRequest, int]] = {}
        self._search = MixedSearch(network, call, self, rows)
        self.is_idle, self.rows = True, 0
        self.has_room = True  # its searches asked for rows, and there were too few

    def wake(self) -> None:
        """Look for requests and notices: at once if it waits, else after the present step."""
        self._search.step_by_step.set()
        self._wakes.put(None)

    def follow(self, index: int) -> None:
        """Tell the listener the tokens of this request after every step."""
        self._tell(lambda: self._followed.add(index))

    def cancel(self, index: int) -> None:
        """Forget a request, at the next step."""
        self._tell(lambda: self._cancel(index))

    def take(self, count: int) -> list[Row]:
        """Return up to `count` rows that are there now, completed: encoded, with their latents.

        New requests come first, each with one row; then the next rows of those that have some. So a request with many outputs
        does not keep the others waiting.
        """
        rows: list[Row] = []
        turn = 0
        self.has_room = True  # before it looks, so that who adds a request now wakes it
        while len(rows) < count:
            if turn % 2 == 0 or not self._taken:
                self._take_new()
            if not self._taken:
                break
            taken = self._taken.popleft()
            rows.append((taken.request.first + taken.output, taken.request))
            taken.output += 1
            if taken.output < taken.request.settings.searches_per_request:
                self._taken.append(taken)
            turn += 1
        else:
            self.has_room = False
        return self._that_run(self._completed(rows))

    def _that_run(self, rows: list[Row]) -> list[Row]:
        """Return the rows that do not end at once; the others have finished."""
        for row in rows:
            if row[1].ends_at_once:
                self._finished(empty_output(row))
        return [row for row in rows if not row[1].ends_at_once]

    def _take_new(self) -> None:
        """Let the request that came first be the next one that gets a row."""
        with suppress(IndexError):  # there is none
            request = self._waiting.popleft()
            self._open[request.index] = request, 0
            self._taken.appendleft(Taken(request))
            self._left()

    def _completed(self, rows: list[Row]) -> list[Row]:
        """Return rows with latents, encoded sources and prompts of members' own read; one that cannot be completed fails."""
        rows = list(with_latents_of(self._call.latents, rows, self._network.contract))
        todo = {r.key: r for _, r in rows}
        try:
            done = dict(zip(todo, self._complete(list(todo.values())), strict=True))
        except Exception:
            done = {}
            for key, request in todo.items():
                try:
                    (done[key],) = self._complete([request])
                except Exception as error:
                    self._fail(request, error)
        if self._call.latents is None:
            for taken in self._taken:  # its other outputs read the same
                taken.request = done.get(taken.request.key, taken.request)
        return self._limited([(sequence, done[r.key]) for sequence, r in rows if r.key in done])

    def _complete(self, requests: Sequence[EngineRequest]) -> list[EngineRequest]:
        return with_prefixes_read(self._network, self._call, encoded(self._network, requests))

    def _limited(self, rows: list[Row]) -> list[Row]:
        """Return the rows, each ending with the last token that the model takes; one whose prompt is too long fails."""
        found: list[Row] = []
        for row in rows:
            try:
                found += limited_rows(self._network.contract, iter([row]))
            except OptionError as error:
                self._fail(row[1], error)
        return found

    def _tell(self, notice: Callable[[], None]) -> None:
        self._notices.put(notice)
        self.wake()

    def _cancel(self, index: int) -> None:
        self._open.pop(index, None)
        self._followed.discard(index)
        self._taken = deque(taken for taken in self._taken if taken.request.index != index)
        self._search.cancel(index)

    def _fail(self, request: EngineRequest, error: Exception) -> None:
        self._cancel(request.index)
        self._listener.failed(request, error)

    def work(self) -> None:
        """Decode what comes, until it is stopped; it runs in a thread of its own."""
        while not self.stopped.is_set():
            try:
                self._after_step()
                if not (self._waiting or self._taken):
                    self._wait()
                    continue
                with using(self._network, in_threads=True):
                    self._run()
            except Exception as error:  # not of one request: the network cannot be run, say, or there is no memory
                # Also those that no search has yet, or that the error lost between two.
                for request, _ in list(self._open.values()):
                    self._fail(request, error)
                self._search = MixedSearch(self._network, self._call, self, self._count)

    def _run(self) -> None:
        """Decode until nothing is left."""
        for found in self._search.run(every=True):
            match found:
                case None:
                    self._after_step()
                case FinishedSequence():
                    self.rows = self._search.rows()
                    self._finished(found)
                case FailedRequest():
                    self._fail(found.request, found.error)

    def _finished(self, sequence: FinishedSequence) -> None:
        self._listener.finished(sequence)
        index = sequence.request.index
        if index in self._open:  # it was not cancelled
            request, finished = self._open.pop(index)
            if finished + 1 < sequence.siblings:
                self._open[index] = request, finished + 1

    def _after_step(self) -> None:
        self._search.pace()  # before it looks for notices, so that one which comes now ends another call
        noticed = self._notice()
        self.rows = self._search.rows()
        if self._followed:
            for row in self._search.outputs(self._followed):
                self._listener.chosen(row)
        if noticed or self._followed or (self.has_room and self._waiting):
            self._search.pace(step_by_step=True)

    def _notice(self) -> bool:
        """Do what other threads asked for, and return whether there was anything."""
        noticed = False
        with suppress(Empty):
            while True:
                self._notices.get_nowait()()
                noticed = True
        return noticed

    def _wait(self) -> None:
        """Wait until somebody wakes this thread."""
        self.is_idle = True
        # copy() takes the deque's lock, as append() does and bool() does not: without the GIL, on a processor that reorders, a
        # request might come unseen while who adds it does not see that this thread is idle.
        if not self._waiting.copy() and self._notices.empty() and not self.stopped.is_set():
            self._wakes.get()
        self.is_idle = False


class LiveSearches:
    """Threads that decode what they are given, until they are stopped.

    Args:
        rows: how many run together in each thread.
        left: called for each request that is no longer waiting.
    """

    def __init__(
        self, network: Network, call: Call, rows: int, workers: int, listener: Listener, left: Callable[[], None]
    ) -> None:
        self.waiting = deque[EngineRequest]()
        alone = network if workers == 1 else network.single_threaded()
        self._searches = [LiveSearch(alone, call, rows, self.waiting, listener, left) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=search.work, daemon=True, name="decoding") for search in self._searches
        ]
        self._process, self._left = os.getpid(), left

    def start(self) -> None:
        """Start the threads."""
        _LIVE.add(self)
        for thread in self._threads:
            start_thread(thread)

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that has the threads."""
        return os.getpid() != self._process

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def rows(self) -> int:
        """How many rows run."""
        return sum(search.rows for search in self._searches)

    def put(self, request: EngineRequest) -> None:
        """Add a request to those that wait."""
        self.waiting.append(request)
        for search in self._searches:
            if search.is_idle or search.has_room:
                search.wake()

    def follow(self, index: int) -> None:
        """Tell the listener the tokens of this request after every step."""
        for search in self._searches:
            search.follow(index)

    def cancel(self, request: EngineRequest) -> None:
        """Forget a request: at once where it waits, else at the next step."""
        try:
            self.waiting.remove(request)
        except ValueError:  # a thread has taken it
            for search in self._searches:
                search.cancel(request.index)
        else:
            self._left()

    def stop(self) -> None:
        """Stop every thread after its present step, and wait for it within a time limit; may be called again."""
        _LIVE.discard(self)
        for search in self._searches:
            search.stopped.set()
            search.wake()
        deadline = time.monotonic() + _PATIENCE
        for thread in [] if self.forked else self._threads:
            wait_for(thread, deadline)
        # A thread that garbage collection finds in a cycle is taken out of Python's list of threads by a callback, and Ctrl-C
        # during a callback is lost: 12 of 600 were.
        self._threads = [thread for thread in self._threads if thread.is_alive()]


_LIVE: set[LiveSearches] = set()


def _stop_all() -> None:
    """At exit: a daemon thread that comes back from native code while Python is taken down aborts the process."""
    for searches in list(_LIVE):
        searches.stop()


atexit.register(_stop_all)
