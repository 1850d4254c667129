"""Brings the token events of many tickets from the engine's threads to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from decoding.results import TokenEvent
from decoding.service import Ticket

# The number of a ticket, and an event of it; None after its last.
Item = tuple[int, TokenEvent | None]

# Events of a stream that are answered in one turn of the event loop: about 5 ms. A slow reader may have many to come.
_AT_ONCE = 512


class Relay:
    """Wakes the event loop once for all events of a step.

    Each `call_soon_threadsafe` writes to a pipe and takes Python's lock from the thread that decodes: one for each token of
    each stream would cost more than the rest of the answer (bench/serve.py).
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._told = deque[Stream]()
        self._wakes = False

    def follow(self, tickets: Sequence[Ticket]) -> Stream:
        """Return the events of some tickets; may be called in any thread."""
        stream = Stream(len(tickets))
        for number, ticket in enumerate(tickets):
            ticket.listen(partial(self._tell, stream, number))
        return stream

    def _tell(self, stream: Stream, number: int, event: TokenEvent | None) -> None:
        """Add an event; called by the engine's threads."""
        stream.items.append((number, event))
        if not stream.is_told:
            stream.is_told = True
            self._told.append(stream)
            if not self._wakes:
                self._wakes = True
                with suppress(RuntimeError):  # the loop is closed
                    self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._wakes = False  # before the streams are looked at: what is told from now on wakes again
        while self._told:
            stream = self._told.popleft()
            stream.is_told = False
            stream.came.set()


class Stream:
    """The events of some tickets, as they come."""

    def __init__(self, tickets: int) -> None:
        self.items = deque[Item]()
        self.is_told, self.came = False, asyncio.Event()
        self._open = tickets

    async def take(self) -> list[Item]:
        """Return what has come since the last time, or a part of it, at least one item; nothing after the end of all tickets."""
        items: list[Item] = []
        while self._open and not items:
            await self.came.wait()
            self.came.clear()
            items = [self.items.popleft() for _ in range(min(len(self.items), _AT_ONCE))]
        if self.items:
            self.came.set()
            await asyncio.sleep(0)  # others have their turn
        self._open -= sum(event is None for _, event in items)
        return items
