"""Prefill: reads the prompts of rows that have no new token yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from decoding.engine.batch.batch import failed_step
from decoding.engine.batch.protocol import Batch, States
from decoding.engine.request import Call, EngineRequest, Row, RowSource
from decoding.errors import ModelError
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History

# Longest chunk read in one run, as long as the longest that load() tries (model/verify/lengths.py): it bounds the memory of the hidden sequences, [rows, chunk, hidden] a layer,
# and how long it takes until a search that was stopped notices.
LONGEST_CHUNK = 512


class Ready(NamedTuple):
    """A row whose prompt is read: it feeds the last token of its prompt next."""

    slot: int
    sequence: int
    request: EngineRequest


class Prefill:
    """The rows of a batch that still read their prompts.

    Beside rows that already write, a prompt is read a token a step. This costs them nothing, as a step computes every
    slot anyway, and no row waits for a long prompt. Where no row writes, prompts are read in chunks
    (`read_chunk`): each once however many rows have it, and without computing the output projection.
    """

    def __init__(self, network: Network, batch: Batch, call: Call) -> None:
        self._network, self._batch, self._call = network, batch, call
        self._rows: dict[int, Row] = {}
        self._cursor = np.zeros(batch.capacity, np.int64)  # ids of the prompt in the row's states
        self._last = np.zeros(batch.capacity, np.int64)  # where the cursor is when the prompt is read
        # The newest request, by its key, and the states after its prompt, for its sequences that get a slot later.
        self._newest: tuple[int, States] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def slots(self) -> list[int]:
        """The slots of the rows that read."""
        return list(self._rows)

    def requests(self) -> list[EngineRequest]:
        """Return the request of each row that reads."""
        return [request for _, request in self._rows.values()]

    def drop(self, index: int) -> None:
        """Forget the rows of a request; their slots are idle."""
        self._rows = {slot: row for slot, row in self._rows.items() if row[1].index != index}

    def seen(self) -> dict[int, Array]:
        """Return, for each row that reads, the part of its prompt that it has come to, with the token it feeds next."""
        return {slot: request.ids[: self._cursor[slot] + 1] for slot, (_, request) in self._rows.items()}

    def admit(self, slots: Array, rows: Sequence[Row]) -> list[Ready]:
        """Start a row at each of these slots, and return those that have nothing to read."""
        newest, states = self._newest or (None, [])
        known = np.array([request.key == newest for _, request in rows])
        last = np.array([len(request.ids) - 1 for _, request in rows])
        reads_nothing = not self._network.contract.states
        read = np.where(known | reads_nothing, last, [request.read for _, request in rows])
        for which in (known, ~known):
            if which.any():
                own = [request for (_, request), mine in zip(rows, which, strict=True) if mine]
                if which is known:
                    self._batch.put(slots[which], states, np.zeros(len(own), np.int64), own, read[which])
                else:
                    self._batch.start(slots[which], own, read[which])
        self._cursor[slots], self._last[slots] = read, last
        self._rows |= {int(slot): row for slot, row in zip(slots, rows, strict=True)}
        return self._release()

    def step(self) -> list[Ready]:
        """After a step of the batch: feed the next token of each prompt, and return the rows that came to their last."""
        slots = np.array(self.slots)
        self._cursor[slots] += 1
        cursors = self._cursor[slots].tolist()
        ids = [request.ids[at] for (_, request), at in zip(self._rows.values(), cursors, strict=True)]
        self._batch.tokens[slots] = ids
        return self._release()

    def read_chunk(self) -> list[Ready]:
        """Read a chunk of every prompt, as far as the shortest of them goes; return the rows that came to their last token."""
        run = self._batch.read_chunk
        if run is None:
            self._batch.context.refresh(self._histories, self._batch.size)
            self._batch.step()
            return self.step()
        c = self._network.contract
        slots = np.array(self.slots)
        requests = [request for _, request in self._rows.values()]
        keys = np.stack([[r.key for r in requests], self._cursor[slots]], 1)
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        own, start = [requests[i] for i in first], self._cursor[slots[first]]
        left = int((self._last[slots] - self._cursor[slots]).min())
        several = self._network.reads_chunks and self._call.step_inputs is None
        count = min(left, c.longest_run or LONGEST_CHUNK, LONGEST_CHUNK if several else 1)
        after = run(slots[first], own, start, count)
        self._cursor[slots] += count
        self._batch.put(slots, after, which.ravel(), requests, self._cursor[slots])
        return self._release()

    def keep(self, slots: Array) -> None:
        """Follow the batch, which has moved the rows at `slots` to the front; every row that reads is among them."""
        for array in (self._cursor, self._last):
            array[: len(slots)] = array[slots]
        self._rows = {i: self._rows[slot] for i, slot in enumerate(slots.tolist()) if slot in self._rows}

    def histories(self) -> History:
        """Return the part of its prompt that each row that reads has come to."""
        seen = self.seen()
        nothing = np.zeros(0, np.int64)
        return History(list(seen.values()), [nothing] * len(seen), [self._rows[slot][1].index for slot in seen])

    def _histories(self) -> History:
        """Return the history of every row; a row that does not read has that of one that does, which nothing uses."""
        reading, place = self.histories(), {slot: i for i, slot in enumerate(self._rows)}
        at = [place.get(slot, 0) for slot in range(self._batch.size)]
        return History(
            [reading.prompts[i] for i in at], [reading.outputs[i] for i in at], [reading.requests[i] for i in at]
        )

    def _release(self) -> list[Ready]:
        """Return the rows that came to the last token of their prompts, which read no more."""
        slots = np.array(self.slots, np.int64)
        slots = slots[self._cursor[slots] == self._last[slots]]
        done = [Ready(slot, *self._rows.pop(slot)) for slot in slots.tolist()]
        if several := [row for row in done if row.request.settings.outputs > 1]:
            self._remember(max(several, key=lambda row: row.request.key))
        return done

    def _remember(self, row: Ready) -> None:
        """Keep the states of the newest request: sequences come in the order of their requests, so no older one comes again."""
        if self._newest is None or row.request.key > self._newest[0]:
            self._newest = row.request.key, self._batch.take(np.array([row.slot]))


class RequestRows:
    """The rows of a search that has `width` of them for each request: first those that write, then those that read.

    The methods that return requests return those whose prompts are read. Their rows come after all that already write.
    """

    def __init__(self, network: Network, batch: Batch, call: Call, queue: RowSource, width: int) -> None:
        self._network, self._batch, self._queue, self._width = network, batch, queue, width
        self._prefill = Prefill(network, batch, call)
        self._ready: list[Ready] = []

    def refill(self, count: int) -> list[EngineRequest]:
        """Give rows to the next `count` requests, or to those that are left."""
        requests = [request for _, request in self._queue.take(count)]
        if not requests:
            return []
        writing, size = self._batch.size - len(self._prefill), self._batch.size
        self._batch.grow(len(requests) * self._width)
        rows = [(0, request) for request in requests for _ in range(self._width)]
        return self._arrange(np.arange(writing), self._prefill.admit(np.arange(size, self._batch.size), rows))

    def requests(self) -> list[EngineRequest]:
        """Return the requests whose prompts are read."""
        return list({r.index: r for r in self._prefill.requests()}.values())

    def read_chunk(self) -> list[EngineRequest]:
        """Read a chunk of every prompt, while no row writes."""
        try:
            return self._arrange(np.zeros(0, np.int64), self._prefill.read_chunk())
        except ModelError as error:
            raise failed_step(self._network, error, self.histories([], [])) from error

    def step(self, histories: Callable[[], History]) -> None:
        """Take a step of the batch, in which the rows that read go on reading; `histories` is that of every row."""
        try:
            self._batch.context.refresh(histories, self._batch.size)
            self._batch.step()
        except ModelError as error:
            raise failed_step(self._network, error, histories()) from error
        self._ready = self._prefill.step() if self._prefill else []

    def move(self, rows: Array) -> list[EngineRequest]:
        """Go on with `rows`, in that order, of those that wrote in the last step; a row may be named more than once."""
        ready, self._ready = self._ready, []  # a native step reads nothing
        return self._arrange(rows, ready)

    def histories(self, requests: Sequence[EngineRequest], outputs: Sequence[Array]) -> History:
        """Return the history of every row: those that write, with their requests and outputs, then those that read."""
        reading, nothing = self._prefill.histories(), np.zeros(0, np.int64)
        prompts = [*(r.ids for r in requests), *reading.prompts]
        numbers = [*(r.index for r in requests), *reading.requests]
        return History(prompts, [*outputs, *([nothing] * len(reading))], numbers)

    def _arrange(self, rows: Array, ready: list[Ready]) -> list[EngineRequest]:
        order = np.array([*rows, *(row.slot for row in ready), *self._prefill.slots], np.int64)
        self._batch.keep(order)
        self._prefill.keep(order)
        return [row.request for row in ready[:: self._width]]


class RequestSearch:
    """What searches have in common that have several rows for each request.

    Args:
        rows: of the batch, `width` for each request.
    """

    def __init__(self, batch: Batch, rows: RequestRows) -> None:
        self._batch, self._rows = batch, rows
        self._requests: list[EngineRequest] = []  # whose prompts are read
        self._cancelled = set[int]()

    def rows(self) -> int:
        """Return how many rows run or read."""
        return self._batch.size

    def requests(self) -> list[EngineRequest]:
        """Return the requests that have rows here."""
        return [*self._requests, *self._rows.requests()]

    def cancel(self, index: int) -> None:
        """Let a request end with the next step."""
        self._cancelled.add(index)
