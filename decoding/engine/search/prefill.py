"""Reading prompts: rows that have not yet come to their first new token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from decoding.engine.batch.host import Batch
from decoding.engine.request import Request, RequestQueue, Settings
from decoding.model.contract.pad import pad_together
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.processors import History

# Longest piece read in one run: it bounds the memory of the hidden sequences, [rows, piece, hidden] a layer,
# and how long it takes until a job that was stopped notices.
_CHUNK = 512


class Ready(NamedTuple):
    """A row whose prompt is read: what it feeds next is the prompt's last token."""

    slot: int
    sequence: int
    prompt: Request


class Prefill:
    """The rows of a running batch that still read their prompts.

    A prompt is fed a token a step among the rows that already write: it costs them nothing, as the place is computed
    anyway, and nobody waits, however long the prompt is. Where nobody writes, the prompts are read by whole pieces
    (`leap`), each once however many rows have it, and without computing the output projection.
    """

    def __init__(self, model: Model, batch: Batch, settings: Settings) -> None:
        self._model, self._batch, self._settings = model, batch, settings
        self._rows: dict[int, tuple[int, Request]] = {}
        self._cursor = np.zeros(batch.capacity, np.int64)  # ids of the prompt in the row's states
        self._last = np.zeros(batch.capacity, np.int64)  # where the cursor is when the prompt is read
        # The states after the newest prompt, for those of its sequences that find a place later.
        self._newest: tuple[int, Any] = (-1, [])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def slots(self) -> list[int]:
        """Places of the rows that read."""
        return list(self._rows)

    def seen(self) -> dict[int, Array]:
        """For each row that reads: the part of its prompt that it has come to, with what it feeds next."""
        return {slot: prompt.ids[: self._cursor[slot] + 1] for slot, (_, prompt) in self._rows.items()}

    def admit(self, slots: Array, rows: Sequence[tuple[int, Request]]) -> list[Ready]:
        """Start (sequence, prompt) at each of these places of the batch; those that have nothing to read."""
        index, states = self._newest
        known = np.array([prompt.index == index for _, prompt in rows])
        last = np.array([len(prompt.ids) - 1 for _, prompt in rows])
        reads_nothing = not self._model.contract.states
        read = np.where(known | reads_nothing, last, [prompt.read for _, prompt in rows])
        for which in (known, ~known):
            if which.any():
                own = [prompt for (_, prompt), mine in zip(rows, which, strict=True) if mine]
                first = list({prompt.index: prompt for prompt in own}.values())
                start: Any = states if which is known else self._batch.start(first)
                numbers = {prompt.index: i for i, prompt in enumerate(first)}
                self._batch.put(slots[which], start, np.array([numbers[p.index] for p in own]), own, read[which])
        self._cursor[slots], self._last[slots] = read, last
        self._rows |= {int(slot): row for slot, row in zip(slots, rows, strict=True)}
        return self._release()

    def step(self) -> list[Ready]:
        """After a step of the batch: feed the next token of each prompt; the rows that came to their last."""
        slots = np.array(self.slots)
        self._cursor[slots] += 1
        cursors = self._cursor[slots].tolist()
        ids = [prompt.ids[at] for (_, prompt), at in zip(self._rows.values(), cursors, strict=True)]
        self._batch.tokens[slots] = ids
        return self._release()

    def read_chunk(self) -> list[Ready]:
        """Read a piece of every prompt, as far as the shortest of them goes; the rows that came to their last token."""
        if not self._batch.reads_chunks:
            self._batch.context.refresh(self._histories, self._batch.size)
            self._batch.step()
            return self.step()
        c = self._model.contract
        slots = np.array(self.slots)
        prompts = [prompt for _, prompt in self._rows.values()]
        keys = np.stack([[p.index for p in prompts], self._cursor[slots]], 1)
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        own, start = [prompts[i] for i in first], self._cursor[slots[first]]
        left = int((self._last[slots] - self._cursor[slots]).min())
        count = min(left, _CHUNK if c.sequence and self._settings.step_inputs is None and not c.draws_alone else 1)
        ids = np.stack([p.ids[at : at + count] for p, at in zip(own, start, strict=True)])
        after: Any = self._batch.read(slots[first], c.feeds(ids, start, self._context(own, start, count)))
        self._cursor[slots] += count
        self._batch.put(slots, after, which.ravel(), prompts, self._cursor[slots])
        return self._release()

    def keep(self, slots: Array) -> None:
        """The batch has moved the rows at `places` to the front; every row that reads is among them."""
        for array in (self._cursor, self._last):
            array[: len(slots)] = array[slots]
        self._rows = {i: self._rows[slot] for i, slot in enumerate(slots.tolist()) if slot in self._rows}

    def _histories(self) -> History:
        """What every row of the batch has come to; those that do not read count for nothing."""
        seen = self.seen()
        rows = [seen.get(slot, next(iter(seen.values()))) for slot in range(self._batch.size)]
        return History(rows, [np.zeros(0, np.int64)] * len(rows))

    def _context(self, prompts: Sequence[Request], start: Array, count: int) -> dict[str, Array]:
        c = self._model.contract
        context = pad_together(c.row_inputs, [p.context for p in prompts])
        if (draws := prompts[0].draws) is not None:
            context |= draws.steps(c.auxiliary_inputs, np.array([p.index for p in prompts]), start, count)
        if self._settings.step_inputs is not None:
            seen = [p.ids[: at + 1] for p, at in zip(prompts, start, strict=True)]
            history = History(seen, [np.zeros(0, np.int64)] * len(seen))
            context |= self._settings.step_inputs(history)
        return context

    def _release(self) -> list[Ready]:
        """Let go of the rows that came to the last token of their prompts."""
        slots = np.array(self.slots, np.int64)
        slots = slots[self._cursor[slots] == self._last[slots]]
        done = [Ready(slot, *self._rows.pop(slot)) for slot in slots.tolist()]
        if done and self._settings.outputs > 1:
            self._remember(max(done, key=lambda row: row.prompt.index))
        return done

    def _remember(self, row: Ready) -> None:
        """Sequences come in the order of their prompts, so only the newest prompt can still come again."""
        if row.prompt.index > self._newest[0]:
            self._newest = row.prompt.index, self._batch.take(np.array([row.slot]))


class PromptRows:
    """The rows of a search that has `width` of them for each prompt: first those that write, behind them those that read.

    The methods that give prompts give those whose reading is over: their rows now come behind all that wrote before.
    """

    def __init__(self, model: Model, batch: Batch, settings: Settings, source: RequestQueue, width: int) -> None:
        self._batch, self._queue, self._width = batch, source, width
        self._prefill = Prefill(model, batch, settings)
        self._ready: list[Ready] = []

    def refill(self, count: int) -> list[Request]:
        """Give rows to the next prompts, `count` of them or as many as are left.

        Their outputs are found by one search, so the source counts one for each.
        """
        prompts = [prompt for _, prompt in self._queue.take(count)]
        if not prompts:
            return []
        writing, size = self._batch.size - len(self._prefill), self._batch.size
        self._batch.grow(len(prompts) * self._width)
        rows = [(0, prompt) for prompt in prompts for _ in range(self._width)]
        return self._arrange(np.arange(writing), self._prefill.admit(np.arange(size, self._batch.size), rows))

    def read_chunk(self) -> list[Request]:
        """While no row writes: read a piece of every prompt."""
        return self._arrange(np.zeros(0, np.int64), self._prefill.read_chunk())

    def step(self) -> None:
        """After a step of the batch: read on."""
        self._ready = self._prefill.step() if self._prefill else []

    def move(self, rows: Array) -> list[Request]:
        """Of the rows that wrote in the last step, go on with `rows`, in that order; some may be named more than once."""
        return self._arrange(rows, self._ready)

    def histories(self, prompts: Sequence[Array], outputs: Sequence[Array]) -> History:
        """What every row has so far: those that write, as given, and those that read."""
        seen, nothing = list(self._prefill.seen().values()), np.zeros(0, np.int64)
        return History([*prompts, *seen], [*outputs, *([nothing] * len(seen))])

    def _arrange(self, rows: Array, ready: list[Ready]) -> list[Request]:
        order = np.array([*rows, *(row.slot for row in ready), *self._prefill.slots], np.int64)
        self._batch.keep(order)
        self._prefill.keep(order)
        return [row.prompt for row in ready[:: self._width]]
