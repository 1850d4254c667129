"""Reading prompts: rows that have not yet come to their first new token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from decoding.engine.batch import Batch
from decoding.engine.context import step_values
from decoding.engine.job import Job, Prompt, Source
from decoding.model.graph import Array
from decoding.model.model import Model
from decoding.model.padding import pad_together
from decoding.processors import History

# Longest piece read in one run: it bounds the memory of the hidden sequences, [rows, piece, hidden] a layer,
# and how long it takes until a job that was stopped notices.
_PIECE = 512


class Ready(NamedTuple):
    """A row whose prompt is read: what it feeds next is the prompt's last token."""

    place: int
    sequence: int
    prompt: Prompt


class Prefill:
    """The rows of a running batch that still read their prompts.

    A prompt is fed a token a step among the rows that already write: it costs them nothing, as the place is computed
    anyway, and nobody waits, however long the prompt is. Where nobody writes, the prompts are read by whole pieces
    (`leap`), each once however many rows have it, and without computing the output projection.
    """

    def __init__(self, model: Model, batch: Batch, job: Job) -> None:
        self._model, self._batch, self._job = model, batch, job
        self._rows: dict[int, tuple[int, Prompt]] = {}
        self._cursor = np.zeros(batch.capacity, np.int64)  # ids of the prompt in the row's states
        self._last = np.zeros(batch.capacity, np.int64)  # where the cursor is when the prompt is read
        # The states after the newest prompt, for those of its sequences that find a place later.
        self._newest: tuple[int, Any] = (-1, [])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def places(self) -> list[int]:
        """Places of the rows that read."""
        return list(self._rows)

    def seen(self) -> dict[int, Array]:
        """For each row that reads: the part of its prompt that it has come to, with what it feeds next."""
        return {place: prompt.ids[: self._cursor[place] + 1] for place, (_, prompt) in self._rows.items()}

    def admit(self, places: Array, rows: Sequence[tuple[int, Prompt]]) -> list[Ready]:
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
                self._batch.put(places[which], start, np.array([numbers[p.index] for p in own]), own, read[which])
        self._cursor[places], self._last[places] = read, last
        self._rows |= {int(place): row for place, row in zip(places, rows, strict=True)}
        return self._release()

    def step(self) -> list[Ready]:
        """After a step of the batch: feed the next token of each prompt; the rows that came to their last."""
        places = np.array(self.places)
        self._cursor[places] += 1
        cursors = self._cursor[places].tolist()
        ids = [prompt.ids[at] for (_, prompt), at in zip(self._rows.values(), cursors, strict=True)]
        self._batch.tokens[places] = ids
        return self._release()

    def leap(self) -> list[Ready]:
        """Read a piece of every prompt, as far as the shortest of them goes; the rows that came to their last token."""
        if not self._batch.leaps:
            self._batch.context.refresh(self._histories, self._batch.size)
            self._batch.step()
            return self.step()
        c = self._model.contract
        places = np.array(self.places)
        prompts = [prompt for _, prompt in self._rows.values()]
        keys = np.stack([[p.index for p in prompts], self._cursor[places]], 1)
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        own, start = [prompts[i] for i in first], self._cursor[places[first]]
        left = int((self._last[places] - self._cursor[places]).min())
        count = min(left, _PIECE if c.sequence and self._job.step_inputs is None and not c.draws_alone else 1)
        ids = np.stack([p.ids[at : at + count] for p, at in zip(own, start, strict=True)])
        after: Any = self._batch.read(places[first], c.feeds(ids, start, self._context(own, start, count)))
        self._cursor[places] += count
        self._batch.put(places, after, which.ravel(), prompts, self._cursor[places])
        return self._release()

    def keep(self, places: Array) -> None:
        """The batch has moved the rows at `places` to the front; every row that reads is among them."""
        for array in (self._cursor, self._last):
            array[: len(places)] = array[places]
        self._rows = {i: self._rows[place] for i, place in enumerate(places.tolist()) if place in self._rows}

    def _histories(self) -> History:
        """What every row of the batch has come to; those that do not read count for nothing."""
        seen = self.seen()
        rows = [seen.get(place, next(iter(seen.values()))) for place in range(self._batch.size)]
        return History(rows, [np.zeros(0, np.int64)] * len(rows))

    def _context(self, prompts: Sequence[Prompt], start: Array, count: int) -> dict[str, Array]:
        c = self._model.contract
        context = pad_together(c.row_fills, [p.context for p in prompts])
        if (draws := prompts[0].draws) is not None:
            context |= draws.steps(c.fills, np.array([p.index for p in prompts]), start, count)
        if self._job.step_inputs is not None:
            fills = {f.name: f for f in self._model.contract.contexts}
            seen = [p.ids[: at + 1] for p, at in zip(prompts, start, strict=True)]
            history = History(seen, [np.zeros(0, np.int64)] * len(seen))
            context |= step_values(fills, self._job.step_inputs, history, len(seen))
        return context

    def _release(self) -> list[Ready]:
        """Let go of the rows that came to the last token of their prompts."""
        places = np.array(self.places, np.int64)
        places = places[self._cursor[places] == self._last[places]]
        done = [Ready(place, *self._rows.pop(place)) for place in places.tolist()]
        if done and self._job.outputs > 1:
            self._remember(max(done, key=lambda row: row.prompt.index))
        return done

    def _remember(self, row: Ready) -> None:
        """Sequences come in the order of their prompts, so only the newest prompt can still come again."""
        if row.prompt.index > self._newest[0]:
            self._newest = row.prompt.index, self._batch.take(np.array([row.place]))


class PromptRows:
    """The rows of a search that has `width` of them for each prompt: first those that write, behind them those that read.

    The methods that give prompts give those whose reading is over: their rows now come behind all that wrote before.
    """

    def __init__(self, model: Model, batch: Batch, job: Job, source: Source, width: int) -> None:
        self._batch, self._source, self._width = batch, source, width
        self._prefill = Prefill(model, batch, job)
        self._ready: list[Ready] = []

    def refill(self, count: int) -> list[Prompt]:
        """Give rows to the next prompts, `count` of them or as many as are left.

        Their outputs are found by one search, so the source counts one for each.
        """
        prompts = [prompt for _, prompt in self._source.take(count)]
        if not prompts:
            return []
        writing, size = self._batch.size - len(self._prefill), self._batch.size
        self._batch.grow(len(prompts) * self._width)
        rows = [(0, prompt) for prompt in prompts for _ in range(self._width)]
        return self._arrange(np.arange(writing), self._prefill.admit(np.arange(size, self._batch.size), rows))

    def leap(self) -> list[Prompt]:
        """While no row writes: read a piece of every prompt."""
        return self._arrange(np.zeros(0, np.int64), self._prefill.leap())

    def step(self) -> None:
        """After a step of the batch: read on."""
        self._ready = self._prefill.step() if self._prefill else []

    def move(self, rows: Array) -> list[Prompt]:
        """Of the rows that wrote in the last step, go on with `rows`, in that order; some may be named more than once."""
        return self._arrange(rows, self._ready)

    def histories(self, prompts: Sequence[Array], outputs: Sequence[Array]) -> History:
        """What every row has so far: those that write, as given, and those that read."""
        seen, nothing = list(self._prefill.seen().values()), np.zeros(0, np.int64)
        return History([*prompts, *seen], [*outputs, *([nothing] * len(seen))])

    def _arrange(self, rows: Array, ready: list[Ready]) -> list[Prompt]:
        order = np.array([*rows, *(row.place for row in ready), *self._prefill.places], np.int64)
        self._batch.keep(order)
        self._prefill.keep(order)
        return [row.prompt for row in ready[:: self._width]]
