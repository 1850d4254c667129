"""Greedy search and sampling: every row chooses its tokens by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import numpy as np

from decoding.engine.batch.batch import failed_step, make_batch
from decoding.engine.batch.device import DeviceBatch
from decoding.engine.batch.ensemble import EnsembleBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.batch.protocol import Batch
from decoding.engine.request import (
    Call,
    Choice,
    EngineRequest,
    FailedRequest,
    FinishedSequence,
    Remember,
    Row,
    RowSource,
    RunningOutput,
)
from decoding.engine.search.native_steps import NativeSteps
from decoding.engine.search.prefill import LONGEST_CHUNK, Prefill, Ready
from decoding.engine.search.rows.sampler import RowSampler
from decoding.engine.search.states import state_after
from decoding.errors import DecodeError, ModelError
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History

# Tokens of a prompt from which on its state is remembered: reading fewer takes no longer than looking for them.
_WORTH_KEEPING = 32


class SamplingSearch:
    """The step loop: fill the slots, step, retire what is finished, refill or shrink.

    Args:
        rows: how many run together.
    """

    def __init__(self, network: Network, call: Call, queue: RowSource, rows: int) -> None:
        self._network, self._queue = network, queue
        self._batch = make_batch(network, rows, call, attention=call.attention)
        self._prefill = Prefill(network, self._batch, call)
        self._sampler = make_sampler(network, self._batch, call)
        if isinstance(self._batch, DeviceBatch):
            self._batch.draws = self._sampler.choices.draws
        self._has_extras = self._batch.context.moves or call.attention
        self._native = self._native_steps(call)
        self._remember = call.remember
        self._is_live, self._failed = call.live, list[FailedRequest]()
        self._is_full = False  # every slot has a row
        self._took_native = False  # the last step was a native one, which keeps the states of finished rows aside

    def run(self, *, every: bool = False) -> Iterator[FinishedSequence | FailedRequest | None]:
        """Decode the whole queue, yielding each sequence as it finishes; with `every`, also None after steps.

        After each step while the queue's `step_by_step` is set.
        """
        for finished in self._checked_steps():
            yield from self._failed
            self._failed.clear()
            if finished:
                yield from self._retire()
            if self._is_live and not self._is_full:
                self._refill()
            if every:
                yield None

    def take_from(self, queue: RowSource) -> None:
        """Take rows from another queue from now on; none runs."""
        self._queue = queue

    def rows(self) -> int:
        """Return how many rows run or read."""
        return self._batch.size

    def requests(self) -> list[EngineRequest]:
        """Return the requests that have rows here."""
        running = [self._sampler.requests[slot] for slot in self._sampler.running(self._batch.size)]
        return list({r.index: r for r in (*running, *self._prefill.requests())}.values())

    def cancel(self, index: int) -> None:
        """Forget the rows of a request; its slots are free at the next step."""
        self._is_full = False
        self._prefill.drop(index)
        for slot in self._sampler.running(self._batch.size):
            if self._sampler.requests[slot].index == index:
                self._sampler.drop(slot)

    def outputs(self, indices: Collection[int]) -> Iterator[RunningOutput]:
        """Yield for each row of these requests its new tokens so far."""
        for slot in self._sampler.running(self._batch.size):
            request = self._sampler.requests[slot]
            if request.index in indices:
                yield (
                    request,
                    int(self._sampler.sequences[slot]),
                    self._sampler.outputs.tokens(slot),
                    self._sampler.outputs.logprobs(slot),
                    self._sampler.outputs.top(slot),
                )

    def choices(self) -> Iterator[Choice]:
        """Decode the whole queue, yielding every token as it is chosen."""
        self._queue.step_by_step.set()
        for finished in self._checked_steps():
            yield from (Choice(*chosen) for chosen in self._sampler.chosen(self._batch.size))
            if finished:
                for _ in self._retire():
                    pass

    def _checked_steps(self) -> Iterator[int]:
        """Do what `_steps` does; a step that the network cannot run is a DecodeError."""
        try:
            yield from self._steps()
        except ModelError as error:
            raise failed_step(self._network, error, self._histories()) from error

    def _steps(self) -> Iterator[int]:
        """Take steps until nothing is left, yielding how many rows finished, for the caller to retire.

        It yields when a row has finished or failed, and after each step while the queue's `step_by_step` is set: at 35 microseconds a
        step, the Python code here counts (bench/test_decode.py).
        """
        batch, sampler, prefill = self._batch, self._sampler, self._prefill
        stopped, step_by_step = self._queue.stopped.is_set, self._queue.step_by_step.is_set
        failed = self._failed
        rows = self._queue.take(batch.capacity)
        batch.size = len(rows)
        if rows:
            self._admit(np.arange(len(rows)), rows)
        step, advance, extras, native = batch.step, sampler.advance, self._has_extras, self._native
        while batch.size and not stopped():
            if prefill and not len(sampler.running(batch.size)):
                self._begin(prefill.read_chunk())
                if step_by_step():
                    yield 0
                continue
            if extras:
                batch.context.refresh(self._histories, batch.size)
            self._took_native = native is not None and not sampler.needs_python
            if native is not None and self._took_native:
                finished = native.take(1 if prefill else sys.maxsize)
                if self._is_live and isinstance(native.error, DecodeError):
                    finished += self._without_failed(native.take_error(), native.choose_again)
            else:
                choose = None
                if sampler.has_constraints and not (prefill or step_by_step()):
                    choose = self._read_forced()
                if choose is None:
                    step()
                    choose = advance
                try:
                    finished = choose(batch.size)
                except Exception as error:
                    if not self._is_live:
                        raise
                    finished = self._without_failed(error, choose)
            if extras and batch.attention is not None:
                sampler.outputs.record_attention(batch.attention[: batch.size])
            if prefill:
                self._begin(prefill.step())
            if finished or failed or step_by_step():
                yield finished

    def _read_forced(self) -> Callable[[int], int] | None:
        """Let the network read the next tokens in one run, where constraints force them on all rows; return what records them."""
        batch = self._batch
        if self._has_extras or not isinstance(batch, HostBatch):
            return None
        run = self._sampler.forced(batch.size, min(LONGEST_CHUNK, self._network.contract.longest_run or LONGEST_CHUNK))
        if run is None:
            return None
        logits = batch.read_run(np.column_stack([batch.tokens[: batch.size], run[:-1].T]))
        return partial(self._sampler.take_run, run=run, logits=logits)

    def _native_steps(self, call: Call) -> NativeSteps | None:
        """Return what takes whole steps without Python; None where there is no native step, or each needs some Python."""
        if self._has_extras or not (isinstance(self._batch, HostBatch | EnsembleBatch) and self._batch.in_place):
            return None
        stopped, step_by_step = self._queue.stopped, self._queue.step_by_step
        keeps_states = call.remember is not None
        return NativeSteps(self._batch, self._sampler, stopped, step_by_step, keeps_states=keeps_states)

    def _histories(self) -> History:
        """Return the history of every row; of an idle row, the history it had."""
        slots = range(self._batch.size)
        seen, nothing = self._prefill.seen(), np.zeros(0, np.int64)
        return History(
            [seen[i] if i in seen else self._sampler.requests[i].ids for i in slots],
            [nothing if i in seen else self._sampler.outputs.tokens(i) for i in slots],
            [-1 if (request := self._sampler.requests[i]) is None else request.index for i in slots],
        )

    def _retire(self) -> Iterator[FinishedSequence]:
        """Yield the finished sequences; put waiting ones in their slots, or shrink the batch."""
        done = self._sampler.finished(self._batch.size)
        if self._remember is not None and len(done):
            self._keep_states_after(done, self._remember)
        for slot in done:
            width = None
            if self._batch.attention is not None:
                width = self._batch.context.source_length(slot, self._batch.attention.shape[1])
            state = None
            if self._sampler.requests[slot].settings.return_state:
                request, output = self._sampler.requests[slot], self._sampler.outputs.tokens(slot)
                state = state_after(self._network, self._batch, slot, request, output, self._sampler.ended_by_eos(slot))
            yield self._sampler.take(slot, source_length=width, state=state)
        rows = self._queue.take(len(done))
        if rows:
            self._admit(done[: len(rows)], rows)
        self._shrink()

    def _refill(self) -> None:
        """Put rows that came since the last step in slots that are free, or in new ones."""
        idle = np.flatnonzero(~self._lives())
        rows = self._queue.take(len(idle) + self._batch.capacity - self._batch.size)
        if len(rows) > len(idle):
            new = np.arange(self._batch.size, self._batch.size + len(rows) - len(idle))
            self._batch.grow(len(new))
            idle = np.append(idle, new)
        if rows:
            self._admit(idle[: len(rows)], rows)
        self._shrink()

    def _lives(self) -> Array:
        """Return, for each slot, whether its row runs or reads."""
        lives = np.zeros(self._batch.size, bool)
        lives[self._sampler.running(self._batch.size)] = True
        lives[self._prefill.slots] = True
        return lives

    def _shrink(self) -> None:
        """Leave out idle rows, if they are many."""
        live = np.flatnonzero(self._lives())
        self._is_full = len(live) == self._batch.capacity
        if not len(live):
            self._batch.size = 0
            return
        # Idle rows are computed for nothing; shrinking copies the states once. An eighth balances the two.
        if 8 * (self._batch.size - len(live)) >= self._batch.size:
            for part in (self._batch, self._sampler, self._prefill):
                part.keep(live)

    def _without_failed(self, error: Exception, choose: Callable[[int], int]) -> int:
        """Choose again without the requests whose rows an error came from, and return how many rows finished."""
        while True:
            assert self._sampler.failed is not None
            request = self._sampler.requests[self._sampler.failed]
            self._failed.append(FailedRequest(request, error))
            self.cancel(request.index)
            try:
                return choose(self._batch.size)
            except Exception as another:
                error = another

    def _admit(self, slots: Array, rows: list[Row]) -> None:
        """Start sequences at these slots."""
        if isinstance(self._batch, HostBatch | EnsembleBatch) and any(
            request.settings.return_state for _, request in rows
        ):
            self._batch.keeps_before = True
        self._begin(self._prefill.admit(slots, rows))

    def _begin(self, rows: list[Ready]) -> None:
        """Let rows write whose prompts are read."""
        if rows:
            slots = np.array([row.slot for row in rows])
            if self._remember is not None:
                long = [row for row in rows if len(row.request.ids) - row.request.read > _WORTH_KEEPING]
                known = [(row.slot, row.request, row.request.ids[:-1]) for row in long]
                self._keep_states(self._remember, known, 0)
            self._sampler.admit(slots, [row.sequence for row in rows], [row.request for row in rows])

    def _keep_states_after(self, done: Array, remember: Remember) -> None:
        """Let the states after long outputs be remembered: all of the output is read but its last token."""
        known = []
        for slot in done:
            request, output = self._sampler.requests[slot], self._sampler.outputs.tokens(slot)[:-1]
            if len(request.ids) + len(output) > _WORTH_KEEPING:
                known.append((slot, request, np.concatenate([request.ids, output])))
        self._keep_states(remember, known, 1 if self._took_native else 0)

    def _keep_states(self, remember: Remember, known: Sequence[tuple[int, EngineRequest, Array]], steps: int) -> None:
        """Let the states of rows be remembered that have read these ids; `steps` is that of `Batch.states_before`."""
        if known:
            slots = np.array([slot for slot, _, _ in known])
            for (_, request, ids), states in zip(known, self._batch.states_before(slots, steps), strict=True):
                remember(request, ids, states)


def make_sampler(network: Network, batch: Batch, call: Call) -> RowSampler:
    """Return the native half of the step loop."""
    down = batch.candidates
    return RowSampler(
        batch.logits,
        batch.tokens,
        vocab_size=network.vocab_size,
        ids=None if down is None else down.ids,
        normalizers=None if down is None else down.normalizers,
        tokenizer=call.tokenizer,
        max_new_tokens=call.settings.max_new_tokens,
        teacher_ratio=call.teacher_ratio,
        drawn=down is not None and down.ids.shape[1] == 1,
    )
