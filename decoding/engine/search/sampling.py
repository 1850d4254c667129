"""Greedy and sampling search: every row goes its own way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from decoding.engine.batch.device import DeviceBatch
from decoding.engine.batch.host import Batch, make_batch
from decoding.engine.request import Choice, FinishedSequence, Request, RequestQueue, Settings
from decoding.engine.search.prefill import Prefill, Ready
from decoding.engine.search.row_sampler import RowSampler
from decoding.engine.search.stopping import text_stops
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.processors import History
from decoding.strategies import Sample, TopN


class SamplingSearch:
    """The step loop: fill the places, step, retire what is finished, refill or shrink.

    Args:
        rows: how many run together.
    """

    def __init__(self, model: Model, settings: Settings, source: RequestQueue, rows: int) -> None:
        self._model, self._settings, self._queue = model, settings, source
        self._batch = make_batch(model, rows, settings, attention=settings.return_attention)
        self._prefill = Prefill(model, self._batch, settings)
        self._sampler = make_sampler(model, self._batch, settings)
        if isinstance(self._batch, DeviceBatch):
            self._batch.draws = self._sampler.draws
        self._has_extras = bool(
            settings.stop_strings or settings.step_inputs or settings.return_attention or settings.latents
        )

    def run(self) -> Iterator[FinishedSequence]:
        """Decode everything that the source gives, yielding each sequence as it finishes."""
        for _ in self._steps(every=False):
            yield from self._retire()

    def choices(self) -> Iterator[Choice]:
        """Decode everything that the source gives, yielding every token as it is chosen."""
        for finished in self._steps(every=True):
            yield from itertools.starmap(Choice, self._sampler.chosen(self._batch.size))
            if finished:
                for _ in self._retire():
                    pass

    def _steps(self, *, every: bool) -> Iterator[int]:
        """Take steps until nothing is left, giving how many rows finished, for the caller to retire.

        Args:
            every: come back after each step; else only after those in which a row finished. At 35 microseconds a
                step, what Python does here counts (bench/test_decode.py).
        """
        batch, sampler, prefill, stopped = self._batch, self._sampler, self._prefill, self._queue.stopped.is_set
        rows = self._queue.take(batch.capacity)
        batch.size = len(rows)
        if rows:
            self._admit(np.arange(len(rows)), rows)
        step, advance, extras = batch.step, sampler.advance, self._has_extras
        while batch.size and not stopped():
            if prefill and not len(sampler.running(batch.size)):
                self._begin(prefill.read_chunk())
                continue
            if extras:
                batch.context.refresh(self._histories, batch.size)
            step()
            finished = advance(batch.size)
            if extras:
                finished += self._after_step()
            if prefill:
                self._begin(prefill.step())
            if finished or every:
                yield finished

    def _after_step(self) -> int:
        """What only some jobs want of a step; how many rows finished by it."""
        if self._batch.attention is not None:
            self._sampler.record_attention(self._batch.attention[: self._batch.size])
        return self._stop_at_texts() if self._settings.stop_strings else 0

    def _histories(self) -> History:
        """What every row has so far; of an idle one, what it had."""
        slots = range(self._batch.size)
        seen, nothing = self._prefill.seen(), np.zeros(0, np.int64)
        return History(
            [seen.get(i, self._sampler.prompts[i]) for i in slots],
            [nothing if i in seen else self._sampler.output(i) for i in slots],
        )

    def _retire(self) -> Iterator[FinishedSequence]:
        """Give the finished rows; put waiting sequences in their places, or shrink the batch."""
        done = self._sampler.finished(self._batch.size)
        for slot in done:
            sequence, tokens, logprobs, logprob, reason, top, teacher, weights, eos = self._sampler.take(slot)
            outputs = self._settings.outputs
            if weights is not None and self._batch.attention is not None:
                weights = weights[:, : self._batch.context.source_length(slot, self._batch.attention.shape[1])]
            yield FinishedSequence(
                sequence, tokens, logprobs, logprob, reason, logprob, outputs, top, teacher, weights, eos
            )
        rows = self._queue.take(len(done))
        if rows:
            self._admit(done[: len(rows)], rows)
        live = np.union1d(self._sampler.running(self._batch.size), np.array(self._prefill.slots, np.int64))
        if not len(live):
            self._batch.size = 0
            return
        # Idle rows are computed for nothing; shrinking copies the states once. An eighth balances the two.
        if 8 * (self._batch.size - len(live)) >= self._batch.size:
            for part in (self._batch, self._sampler, self._prefill):
                part.keep(live)

    def _admit(self, slots: Array, rows: list[tuple[int, Request]]) -> None:
        """Start sequences at these places."""
        self._begin(self._prefill.admit(slots, rows))

    def _begin(self, rows: list[Ready]) -> None:
        """Let rows write whose prompts are read."""
        if rows:
            prompts = [row.prompt for row in rows]
            self._sampler.admit(
                np.array([row.slot for row in rows]),
                [row.sequence for row in rows],
                [p.temperature for p in prompts],
                [p.ids for p in prompts],
                [p.teacher for p in prompts],
                [p.max_new_tokens for p in prompts],
            )

    def _stop_at_texts(self) -> int:
        """Finish the rows whose text has come to a stop string, which may lie across tokens; how many did."""
        stopped = 0
        for slot in self._sampler.running(self._batch.size):
            if text_stops(self._model, self._settings, self._sampler.output(slot)):
                self._sampler.stop(slot)
                stopped += 1
        return stopped


def make_sampler(model: Model, batch: Batch, settings: Settings) -> RowSampler:
    """The native half of the step for a job."""
    strategy, down = settings.strategy, batch.candidates
    is_drawn = down is not None and down.ids.shape[1] == 1  # on the device: there is nothing left to choose
    return RowSampler(
        batch.logits,
        batch.tokens,
        vocab_size=model.vocab_size,
        ids=None if down is None else down.ids,
        normalizers=None if down is None else down.normalizers,
        seed=settings.seed,
        filters=strategy.filters if isinstance(strategy, Sample) and not is_drawn else None,
        top_n=strategy.n if isinstance(strategy, TopN) else 0,
        eos=settings.eos,
        stop=settings.stop,
        min_new_tokens=settings.min_new_tokens,
        max_new_tokens=settings.max_new_tokens,
        processors=settings.processors,
        top_logprobs=settings.top_logprobs,
        teacher_ratio=settings.teacher_ratio,
    )
