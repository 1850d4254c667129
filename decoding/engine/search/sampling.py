"""Greedy search and sampling: every row chooses its tokens by itself."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import numpy as np

from decoding.engine.batch.batch import Batch, failed_step, make_batch
from decoding.engine.batch.device import DeviceBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.request import Choice, FinishedSequence, Row, RowSource, Settings
from decoding.engine.search.native_steps import NativeSteps
from decoding.engine.search.prefill import Prefill, Ready
from decoding.engine.search.row_sampler import RowSampler
from decoding.engine.search.stopping import Stopping
from decoding.errors import ModelError
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.processors import History
from decoding.strategies import Sample, TopN


class SamplingSearch:
    """The step loop: fill the slots, step, retire what is finished, refill or shrink.

    Args:
        rows: how many run together.
    """

    def __init__(self, model: Model, settings: Settings, queue: RowSource, rows: int) -> None:
        self._model, self._settings, self._queue = model, settings, queue
        self._batch = make_batch(model, rows, settings, latents=settings.latents, attention=settings.return_attention)
        self._prefill = Prefill(model, self._batch, settings)
        self._sampler = make_sampler(model, self._batch, settings)
        if isinstance(self._batch, DeviceBatch):
            self._batch.draws = self._sampler.draws
        self._has_extras = self._batch.context.moves or settings.return_attention
        self._native = self._native_steps()

    def run(self) -> Iterator[FinishedSequence]:
        """Decode the whole queue, yielding each sequence as it finishes."""
        for _ in self._checked_steps(every=False):
            yield from self._retire()

    def choices(self) -> Iterator[Choice]:
        """Decode the whole queue, yielding every token as it is chosen."""
        for finished in self._checked_steps(every=True):
            yield from itertools.starmap(Choice, self._sampler.chosen(self._batch.size))
            if finished:
                for _ in self._retire():
                    pass

    def _checked_steps(self, *, every: bool) -> Iterator[int]:
        """Do what `_steps` does; a step that the network cannot run is a DecodeError."""
        try:
            yield from self._steps(every=every)
        except ModelError as error:
            raise failed_step(self._model, error, self._histories()) from error

    def _steps(self, *, every: bool) -> Iterator[int]:
        """Take steps until nothing is left, yielding how many rows finished, for the caller to retire.

        Args:
            every: yield after each step; else only after those in which a row finished. At 35 microseconds a
                step, the Python code here counts (bench/test_decode.py).
        """
        batch, sampler, prefill, stopped = self._batch, self._sampler, self._prefill, self._queue.stopped.is_set
        rows = self._queue.take(batch.capacity)
        batch.size = len(rows)
        if rows:
            self._admit(np.arange(len(rows)), rows)
        step, advance, extras, native = batch.step, sampler.advance, self._has_extras, self._native
        while batch.size and not stopped():
            if prefill and not len(sampler.running(batch.size)):
                self._begin(prefill.read_chunk())
                continue
            if extras:
                batch.context.refresh(self._histories, batch.size)
            if native is not None:
                finished = native.take(1 if every or prefill else sys.maxsize)
            else:
                step()
                finished = advance(batch.size)
            if extras and batch.attention is not None:
                sampler.record_attention(batch.attention[: batch.size])
            if prefill:
                self._begin(prefill.step())
            if finished or every:
                yield finished

    def _native_steps(self) -> NativeSteps | None:
        """Return what takes whole steps without Python; None where there is no native step, or each needs some Python."""
        settings, batch = self._settings, self._batch
        per_step = settings.processors or settings.top_logprobs or settings.teacher_ratio is not None
        if self._has_extras or per_step or not (isinstance(batch, HostBatch) and batch.in_place):
            return None
        return NativeSteps(batch, self._sampler)

    def _histories(self) -> History:
        """Return the history of every row; of an idle row, the history it had."""
        slots = range(self._batch.size)
        seen, nothing = self._prefill.seen(), np.zeros(0, np.int64)
        return History(
            [seen[i] if i in seen else self._sampler.requests[i].ids for i in slots],
            [nothing if i in seen else self._sampler.output(i) for i in slots],
        )

    def _retire(self) -> Iterator[FinishedSequence]:
        """Yield the finished sequences; put waiting ones in their slots, or shrink the batch."""
        done = self._sampler.finished(self._batch.size)
        for slot in done:
            width = None
            if self._batch.attention is not None:
                width = self._batch.context.source_length(slot, self._batch.attention.shape[1])
            yield self._sampler.take(slot, siblings=self._settings.outputs, source_length=width)
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

    def _admit(self, slots: Array, rows: list[Row]) -> None:
        """Start sequences at these slots."""
        self._begin(self._prefill.admit(slots, rows))

    def _begin(self, rows: list[Ready]) -> None:
        """Let rows write whose prompts are read."""
        if rows:
            slots = np.array([row.slot for row in rows])
            self._sampler.admit(slots, [row.sequence for row in rows], [row.request for row in rows])


def make_sampler(model: Model, batch: Batch, settings: Settings) -> RowSampler:
    """Return the native half of the step loop."""
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
        stopping=Stopping(settings, model.vocab_size, model.tokenizer),
        processors=settings.processors,
        top_logprobs=settings.top_logprobs,
        teacher_ratio=settings.teacher_ratio,
    )
