"""Decodes the requests of an iterable that may block, as a queue does, or never end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from queue import Empty, SimpleQueue

from decoding.engine.flags import Flag
from decoding.engine.live.searches import LiveSearches
from decoding.engine.request import Call, EngineRequest, FailedRequest, FinishedSequence, RunningOutput
from decoding.engine.workers import start_thread, wait_for
from decoding.errors import DecodeError
from decoding.model.network import Network

# How long leaving waits for the thread that reads: it may be blocked in the iterable, where nothing can stop it. Ctrl-C
# is to end a call within 10 ms (docs/reliability.md, figure 8).
_PATIENCE = 0.005

# How often the caller looks whether the threads that it waits for are there: one that had no memory to start in tells nobody.
_LOOK = 1.0

# How long a result waits for others that the caller wants together with it.
_TOGETHER = 0.1

Found = FinishedSequence | FailedRequest


def decode_iterable(
    network: Network, call: Call, requests: Iterable[EngineRequest], workers: int
) -> Generator[FinishedSequence]:
    """Decode requests as they come, yielding sequences as they finish, also while the iterable blocks.

    The iterable is read in a thread of its own, up to as many requests ahead as there are slots; closing the generator stops it
    where it next yields. An error of the iterable, or of a request, is raised here.
    """
    with closing(decode_each(network, call, requests, workers)) as found:
        for one in itertools.chain.from_iterable(found):
            if isinstance(one, FailedRequest):
                raise one.error
            yield one


def decode_each(
    network: Network, call: Call, requests: Iterable[EngineRequest], workers: int, *, together: int = 1
) -> Generator[list[Found]]:
    """Decode requests as `decode_iterable()` does, but yield lists of what has ended, in which a request that fails is once, and go on.

    Args:
        together: how many requests and results are handed over at a time, where there are as many slots: every time that another thread
            than the searches' wakes, one of these waits for Python's lock. A result waits for others at most a tenth of a second.
    """
    results = _Results(call.batch_size * workers, workers, together)
    searches = LiveSearches(network, call, call.batch_size, workers, results, results.left)
    reader = threading.Thread(target=results.read, args=(requests, searches), daemon=True, name="decoding-reader")
    results.reader = reader
    try:
        searches.start()
        start_thread(reader)
        yield from results.results(network, searches)
    finally:
        results.leave()
        searches.stop()
        wait_for(reader, time.monotonic() + _PATIENCE)
        if not reader.is_alive():
            results.reader = None  # else the thread is in a cycle: see LiveSearches.stop()


class _Results:
    """Results on their way to the caller, with a bound, and requests on their way to the searches, with another.

    Args:
        slots: how many rows run at once: that many requests wait for them, and that many results for the caller.
        workers: how many threads wait for the caller.
        together: as in `decode_each()`.
    """

    def __init__(self, slots: int, workers: int, together: int) -> None:
        self._workers, self._together = workers, max(1, min(together, slots // 4))
        self.reader: threading.Thread | None = None
        self._found: SimpleQueue[Found | BaseException] = SimpleQueue()
        self._wakes: SimpleQueue[None] = SimpleQueue()  # of the caller
        # Whose next() is one call in C, so that no thread's count is lost.
        self._finishes, self._leaves = itertools.count(1), itertools.count(1)
        self._may_read: SimpleQueue[None] = SimpleQueue()
        self._may_finish: SimpleQueue[None] = SimpleQueue()
        self._stopped = Flag()
        # Outputs of each request that have not finished; None for all of them.
        self._missing: dict[int, int | None] = {}
        self._read = False  # whether the iterable has ended
        for _ in range(slots // self._together):
            self._may_read.put(None)
        for _ in range(slots):
            self._may_finish.put(None)

    def read(self, requests: Iterable[EngineRequest], searches: LiveSearches) -> None:
        """Hand the requests to the searches; it runs in a thread of its own."""
        try:
            for number, request in enumerate(requests):
                if number % self._together == 0:
                    self._may_read.get()
                if self._stopped.is_set():
                    return
                self._missing[request.index] = None
                searches.put(request)
        except BaseException as error:  # raised in the caller's thread
            self._found.put(error)
        else:
            self._read = True
        self._wakes.put(None)

    def results(self, network: Network, searches: LiveSearches) -> Generator[list[Found]]:
        """Yield what has finished or failed, until all requests have ended."""
        while not self._read or self._missing:  # in this order: what is read last is missing before `_read` says so
            if threading.current_thread() is self.reader:
                raise DecodeError(
                    "decode_iter(): next() was called by the iterable of prompts, which would wait for itself; take results only "
                    "where no prompt is being made"
                )
            if searches.forked:
                raise DecodeError(
                    f"{network.name}: this call decodes in threads of the process that was forked, which its child does "
                    "not have; start the call in the child, with a model that is loaded there"
                )
            try:
                self._wakes.get(timeout=_LOOK if self._together == 1 else _TOGETHER)
            except Empty:
                self._check_threads(searches)
            yield from self._that_ended()

    def _that_ended(self) -> Iterator[list[Found]]:
        """Yield what has come, as much of it as the caller takes at a time.

        Raises:
            BaseException: what the iterable has raised, after what came before it.
        """
        ended: list[Found] = []
        error: BaseException | None = None
        with suppress(Empty):
            while error is None and len(ended) < self._together:
                match self._found.get_nowait():
                    case FinishedSequence() as sequence:
                        self._may_finish.put(None)
                        if sequence.request.index in self._missing:  # else another row of it has failed
                            self._count(sequence)
                            ended.append(sequence)
                    case FailedRequest() as failed:
                        if failed.request.index in self._missing:  # several of its rows may fail
                            del self._missing[failed.request.index]
                            ended.append(failed)
                    case BaseException() as raised:
                        error = raised
        if ended:
            yield ended
        if error is not None:
            raise error

    def _check_threads(self, searches: LiveSearches) -> None:
        reads = self._read or (self.reader is not None and self.reader.is_alive())
        if not (reads and searches.alive) and self._found.empty():
            raise DecodeError("decode_iter(): a thread of the call ended without a result: there was no memory for it")

    def _count(self, sequence: FinishedSequence) -> None:
        """Note that an output has finished."""
        index = sequence.request.index
        left = (self._missing[index] or sequence.siblings) - 1
        if left:
            self._missing[index] = left
        else:
            del self._missing[index]

    def leave(self) -> None:
        """Let all threads go on that wait for the caller, and end."""
        self._stopped.set()
        self._may_read.put(None)
        for _ in range(self._workers):
            self._may_finish.put(None)

    def left(self) -> None:
        """A request has left the queue: others may come."""
        if next(self._leaves) % self._together == 0:
            self._may_read.put(None)

    def finished(self, sequence: FinishedSequence) -> None:
        """Hand a sequence to the caller, as soon as there is room for it; nobody waits for it after `leave`."""
        if self._stopped.is_set():
            return
        self._may_finish.get()
        self._found.put(sequence)
        if self._read or next(self._finishes) % self._together == 0:  # nothing is gained by waiting for the last ones
            self._wakes.put(None)

    def failed(self, request: EngineRequest, error: Exception) -> None:
        """Hand the error of a request to the caller."""
        self._found.put(FailedRequest(request, error))
        self._wakes.put(None)

    def chosen(self, output: RunningOutput) -> None:
        """No request is followed."""
