"""`Engine`: decodes requests that come at any time, from any thread or from asyncio."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, Unpack

from decoding.engine.collect import hypotheses
from decoding.engine.latents import Latents
from decoding.engine.live.events import Events
from decoding.engine.live.known_states import KnownStates
from decoding.engine.live.searches import LiveSearches
from decoding.engine.request import EngineRequest, FinishedSequence, RunningOutput
from decoding.errors import Cancelled, DecodeError, QueueFull, check_flag, whole_number
from decoding.inputs.models import loaded
from decoding.inputs.options import Options, check_names, make_call
from decoding.inputs.own_requests import own_request
from decoding.inputs.sizes import check_memory
from decoding.inputs.workers import check_workers
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.requests import Request
from decoding.results import Decoded, FinishReason, TokenEvent
from decoding.strategies import Greedy, Strategy

# The outputs of an engine are numbered: each request has room for that many, so that no two draws are keyed alike.
_OUTPUTS = 2**31


@dataclass(frozen=True)
class Statistics:
    """How an `Engine` is doing.

    Attributes:
        queued: requests that wait; `running`: requests that a thread has taken.
        finished, failed, cancelled: requests that ended so, since the engine was made.
        tokens: new tokens of the finished requests; `tokens_per_second`: since the engine was made.
        batch_fill: rows that run, as a share of all slots.
    """

    queued: int
    running: int
    finished: int
    failed: int
    cancelled: int
    tokens: int
    tokens_per_second: float
    batch_fill: float


class Ticket:
    """A request that an `Engine` has taken. Iterating it yields a `TokenEvent` for each token as it is chosen.

    Attributes:
        request: what was submitted.
    """

    def __init__(self, engine: Engine, request: Request, made: EngineRequest) -> None:
        self.request, self._engine, self._made = request, engine, made
        self._open = [True]  # popped by whoever ends it
        self._ended = threading.Event()
        self._decoded: Decoded | None = None
        self._error: BaseException | None = None
        self._finished: list[FinishedSequence] = []
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # of what follows
        self._events: list[TokenEvent] | None = None  # from the first on, where anybody listens
        self._listeners: list[Callable[[TokenEvent | None], None]] = []
        self._told: dict[int, int] = {}  # how many tokens of each sequence are events
        self._texts = Events(engine._model.tokenizer)

    def done(self) -> bool:
        """Return whether it has ended: with a result, an error, or because it was cancelled."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> Decoded:
        """Return the outputs, the best first; wait for them.

        Args:
            timeout: longest time to wait, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: it has not ended in that time.
            Cancelled: it was cancelled, or the engine was closed.
            DecodeError: the model cannot decode it; or whatever one of its processors raised.
        """
        self._engine._check_process()
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self!r} has not ended after {timeout:g} seconds")
        if self._error is not None:
            raise self._error
        assert self._decoded is not None
        return self._decoded

    async def wait(self) -> Decoded:
        """Return the outputs as `result()` does; the event loop keeps running meanwhile.

        Raises:
            As `result()`.
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended.set)

        with self._lock:
            if self.done():
                ended.set()
            else:
                self._callbacks.append(tell)
        await ended.wait()
        return self.result()

    def cancel(self) -> bool:
        """End it, within one step if it runs; return whether that ended it, which False says of one that had ended."""
        if not self._end(None, Cancelled(f"{self!r} was cancelled")):
            return False
        self._engine._cancelled(self)
        return True

    def __iter__(self) -> Iterator[TokenEvent]:
        """Yield every token from the first on, in the order in which they are chosen.

        Outputs of searches (`Beam`, `Sample(replacement=False)`) come as a whole when the request has ended.

        Raises:
            As `result()`.
        """
        events: SimpleQueue[TokenEvent | None] = SimpleQueue()
        self.listen(events.put)
        while (event := events.get()) is not None:
            yield event
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        state = "ended" if self.done() else "open"
        return f"<Ticket {self._made.index}, {state}: {self.request!r}>"

    def listen(self, listener: Callable[[TokenEvent | None], None]) -> None:
        """Call a function with every token's event, from the first on, and with None after the last.

        It is called in the engine's threads, which wait for it: it must return at once, and raise nothing. Outputs of searches
        come as a whole, as in iteration.
        """
        with self._lock:
            if self._events is None:
                self._events = []
                for sequence in self._finished:
                    self._tell_rest(sequence)
            for event in self._events:
                listener(event)
            if self.done():
                listener(None)
                return
            self._listeners.append(listener)
        self._engine._searches.follow(self._made.index)

    def _chosen(self, output: RunningOutput) -> None:
        """Tell the listeners the new ones of a sequence's tokens."""
        _, sequence, tokens, logprobs, top = output
        with self._lock:
            for at in range(self._told.get(sequence, 0), len(tokens)):
                self._tell(sequence, int(tokens[at]), float(logprobs[at]), None, _at(top, at))

    def _add(self, sequence: FinishedSequence) -> bool:
        """Keep an output, and return whether all are there."""
        with self._lock:
            self._finished.append(sequence)
            if self._events is not None:
                self._tell_rest(sequence)
            return len(self._finished) == sequence.siblings

    def _tell_rest(self, sequence: FinishedSequence) -> None:
        tokens = sequence.tokens.tolist() + ([] if sequence.eos is None else [sequence.eos])
        for at in range(self._told.get(sequence.sequence, 0), len(tokens)):
            reason = sequence.finish_reason if at == len(tokens) - 1 else None
            self._tell(sequence.sequence, tokens[at], float(sequence.logprobs[at]), reason, _at(sequence.top, at))

    def _tell(
        self, sequence: int, token: int, logprob: float, reason: FinishReason | None, top: tuple[Array, Array] | None
    ) -> None:
        assert self._events is not None
        self._told[sequence] = self._told.get(sequence, 0) + 1
        event = self._texts.of(0, sequence - self._made.first, sequence, token, logprob, reason, top)
        self._events.append(event)
        for listener in self._listeners:
            listener(event)

    def _end(self, decoded: Decoded | None, error: BaseException | None) -> bool:
        """End the request, and return whether it had not ended before."""
        try:
            self._open.pop()
        except IndexError:
            return False
        self._decoded, self._error = decoded, error
        with self._lock:
            self._ended.set()
            for listener in self._listeners:
                listener(None)
            self._listeners.clear()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()
        return True


def _at(top: tuple[Array, Array] | None, step: int) -> tuple[Array, Array] | None:
    """Return ids and log-probabilities of the best tokens at a step, of those at every step."""
    return None if top is None else (top[0][step], top[1][step])


class Engine:
    """Decodes requests that arrive at any time, in its own threads. A context manager.

    Any thread may submit requests; with asyncio, `generate()` and `stream()` do. A request runs as soon as a slot of the batch is
    free: first come, first served, and requests with several outputs take turns with the others. A request with its own seed
    has the tokens that `decode()` gives it.

    Args:
        model: a model that `load()` returned, or what `load()` takes.
        strategy, options: what a request leaves out: as in `decode()`, but for teachers, `context`, `latents` and `prefix`.
        batch_size: rows that run together, in each worker; default 128.
        max_queue: requests that may wait for a slot.
        workers: threads with a batch each.
        known_states: how many states after prompts and outputs are kept: a prompt that begins with a known text, as the next
            turn of a conversation does, is read only from there on; 0 keeps none.

    Raises:
        OptionError: an argument is wrong.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: Model | str | Path,
        strategy: Strategy = Greedy(),  # noqa: B008 - frozen
        *,
        max_queue: int = 1024,
        workers: int = 1,
        known_states: int = 256,
        **options: Unpack[Options],
    ) -> None:
        self._model = loaded(model)
        check_names("Engine", options)
        self._permits: SimpleQueue[None] = SimpleQueue()
        self._max_queue = whole_number("max_queue", max_queue, 1, below=2**31)
        for _ in range(self._max_queue):
            self._permits.put(None)
        workers = check_workers(self._model, workers)
        call = make_call(self._model, strategy, **options)
        check_memory(self._model, call, workers, None)
        contract, latents = self._model._network.contract, self._model.latents
        limit = whole_number("known_states", known_states, 0, below=2**31)
        keeps = limit > 0 and contract.window is None and not latents and bool(contract.states)
        keeps = keeps and all(state.free_axis is None for state in contract.states)  # which grow without bound
        self._known = KnownStates(limit) if keeps else None
        self._call = replace(
            call,
            mixed=True,
            live=True,
            attention=contract.attention is not None,
            latents=Latents(self._model._network.latent_families) if latents else None,
            remember=None if self._known is None else self._known.put,
        )
        self._numbers = itertools.count()
        self._tickets: dict[int, Ticket] = {}
        self._closed = False
        self._counts, self._counting = Counter[str](), threading.Lock()
        self._start, self._slots = time.monotonic(), call.batch_size * workers
        self._searches = LiveSearches(self._model._network, self._call, call.batch_size, workers, self, self._left)
        self._searches.start()

    def submit(self, request: Any) -> Ticket:
        """Take a request, or a prompt as `decode()` takes one; return at once.

        Raises:
            QueueFull: `max_queue` requests wait already.
            OptionError: the request is wrong.
            DecodeError: the engine is closed, or this is a forked child, which has none of its threads.
        """
        self._check_process()
        self._check_open()
        try:
            self._permits.get_nowait()
        except Empty:
            raise QueueFull(
                f"Engine.submit(): {self._max_queue} requests wait already; try again later, or pass a larger max_queue"
            ) from None
        try:
            ticket = self._ticket(request)
        except BaseException:
            self._left()
            raise
        self._tickets[ticket._made.index] = ticket
        try:
            self._check_open()  # again: another thread may have closed it without seeing the ticket
        except DecodeError:
            ticket.cancel()
            raise
        self._searches.put(ticket._made)
        return ticket

    async def generate(self, request: Any) -> Decoded:
        """Return the outputs of a request, the best first. Cancelling the task cancels the request.

        Raises:
            As `submit()` and `Ticket.result()`.
        """
        ticket = self.submit(request)
        try:
            return await ticket.wait()
        finally:
            ticket.cancel()

    async def stream(self, request: Any) -> AsyncGenerator[TokenEvent]:
        """Yield the token events of a request as they are made. Leaving early cancels the request.

        Raises:
            As `submit()` and `Ticket.result()`.
        """
        loop, ticket = asyncio.get_running_loop(), self.submit(request)
        events: asyncio.Queue[TokenEvent | None] = asyncio.Queue()

        def tell(event: TokenEvent | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(events.put_nowait, event)

        ticket.listen(tell)
        try:
            while (event := await events.get()) is not None:
                yield event
            ticket.result()
        finally:
            ticket.cancel()

    def statistics(self) -> Statistics:
        """Return how the engine is doing."""
        queued = min(len(self._searches.waiting), len(self._tickets))
        counts, elapsed = self._counts, time.monotonic() - self._start
        return Statistics(
            queued=queued,
            running=len(self._tickets) - queued,
            finished=counts["finished"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            tokens=counts["tokens"],
            tokens_per_second=counts["tokens"] / max(elapsed, 1e-9),
            batch_fill=self._searches.rows / self._slots,
        )

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests and end; may be called again.

        Args:
            drain: let all requests finish first; else they are cancelled, within one step.
        """
        check_flag("drain", drain)
        self._closed = True
        if self._searches.forked:
            return
        for ticket in list(self._tickets.values()):
            if drain:
                ticket._ended.wait()
            elif ticket._end(None, Cancelled(f"{ticket!r}: the engine was closed before it had finished")):
                self._cancelled(ticket)
        self._searches.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def __repr__(self) -> str:
        return f"<Engine of {self._model.name}, {'closed' if self._closed else self.statistics()}>"

    def finished(self, sequence: FinishedSequence) -> None:
        """Keep an output; called by the threads."""
        ticket = self._tickets.get(sequence.request.index)
        if ticket is None or not ticket._add(sequence):
            return
        self._tickets.pop(sequence.request.index, None)
        decoded = Decoded(hypotheses(self._model._network, self._call, ticket._finished, 0))
        self._count(finished=1, tokens=sum(len(f.logprobs) for f in ticket._finished))
        ticket._end(decoded, None)

    def failed(self, request: EngineRequest, error: Exception) -> None:
        """End a request with an error; called by the threads."""
        ticket = self._tickets.pop(request.index, None)
        if ticket is not None and ticket._end(None, error):
            self._count(failed=1)

    def chosen(self, output: RunningOutput) -> None:
        """Tell those who iterate a ticket; called by the threads."""
        ticket = self._tickets.get(output[0].index)
        if ticket is not None:
            ticket._chosen(output)

    def _ticket(self, request: Any) -> Ticket:
        """Check a request and number it."""
        index = next(self._numbers)
        own = request if isinstance(request, Request) else Request(request)
        made = own_request(self._model, self._call, own, None, index, index * _OUTPUTS)
        if self._known is not None and not (made.states or made.source or made.prefixes):
            made = self._known.extended(made)
        return Ticket(self, own, made)

    def _cancelled(self, ticket: Ticket) -> None:
        """Free the rows of a ticket that has ended before its time."""
        if self._tickets.pop(ticket._made.index, None) is not None:
            self._count(cancelled=1)
            self._searches.cancel(ticket._made)

    def _count(self, **more: int) -> None:
        """Add to the counts, which several threads do."""
        with self._counting:
            self._counts.update(more)

    def _check_open(self) -> None:
        if self._closed:
            raise DecodeError("Engine.submit(): the engine is closed; make a new one")

    def _left(self) -> None:
        """A request waits no longer."""
        self._permits.put(None)

    def _check_process(self) -> None:
        if self._searches.forked:
            raise DecodeError(
                f"{self._model.name}: this engine decodes in threads of the process that was forked, which its child does not have; "
                "make an engine in the child, with a model that is loaded there"
            )
