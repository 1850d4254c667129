"""Beam search: each request keeps its num_beams best hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from decoding import kernels
from decoding.constraints import Masks, Matchers, must_end_with
from decoding.engine.batch.batch import make_batch
from decoding.engine.batch.ensemble import EnsembleBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.batch.reduction import beam_candidates
from decoding.engine.request import Call, EngineRequest, FailedRequest, FinishedSequence, RowSource, Settings
from decoding.engine.search.closed import ClosedHypotheses, ClosedHypothesis
from decoding.engine.search.native_beams import NativeBeams
from decoding.engine.search.phrases import Phrases, Progress
from decoding.engine.search.prefill import RequestRows, RequestSearch
from decoding.engine.search.states import state_after
from decoding.engine.search.stopping import FINISH_REASONS, GOES_ON, STOPPED, Stopping
from decoding.errors import DecodeError
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History, apply_processors
from decoding.strategies import Beam

_Of = TypeVar("_Of")  # what a beam has


class BeamSearch(RequestSearch):
    """The step loop over requests of num_beams rows each.

    The rules are those of Hugging Face's `_beam_search` (transformers 5): candidates are the best 2 * num_beams
    continuations; those that end, if among the first num_beams, are closed; the best num_beams of the others go on.
    Each group of beams searches, closes and stops by itself. Arrays are [requests, beams, ...].
    """

    def __init__(self, network: Network, call: Call, settings: Settings, queue: RowSource, rows: int) -> None:
        assert isinstance(settings.strategy, Beam)
        self._network, self._settings, self._queue, self._beam = network, settings, queue, settings.strategy
        self._needs_attention = settings.return_attention or settings.strategy.coverage_penalty != 0
        self._attention: Array | None = None  # [requests, beams, steps, source]
        beams = self._beam.num_beams
        together = max(1, rows // beams)
        batch = make_batch(network, together * beams, call, attention=self._needs_attention, adds_up=True)
        super().__init__(batch, RequestRows(network, batch, call, queue, beams))
        self._stopping = Stopping(settings, network.vocab_size, call.tokenizer)
        self._candidates = beam_candidates(self._beam, settings)
        self._width = self._beam.num_beams // self._beam.num_beam_groups  # of a group
        self._closed = ClosedHypotheses(self._beam.num_beam_groups, self._width)
        self._matchers: list[list[Matchers]] = []  # [requests][beams], where there are constraints
        self._masks = Masks()
        self._phrases: Phrases | None = None
        if self._beam.must_contain is not None:
            self._phrases = Phrases(settings.phrases, ordered=self._beam.must_contain.ordered)
        self._progress: list[list[Progress]] = []  # [requests][beams], where there are phrases
        self._lengths = np.zeros(together, np.int64)
        self._limits = np.zeros(together, np.int64)  # longest lengths
        self._scores = np.zeros((together, beams), np.float32)
        self._done = np.zeros((together, self._beam.num_beam_groups), bool)
        self._ids = np.zeros((together, beams, settings.max_new_tokens), np.int64)
        self._logprobs = np.zeros((together, beams, settings.max_new_tokens), np.float32)
        if isinstance(self._batch, HostBatch | EnsembleBatch):
            self._batch.keeps_before = settings.return_state
        self._native = self._native_beams()

    def run(self, *, every: bool = False) -> Iterator[FinishedSequence | FailedRequest | None]:
        """Decode the whole queue, yielding the hypotheses of each request as it finishes; with `every`, also None after each step."""
        self._begin(self._rows.refill(len(self._lengths)))
        while self._batch.size and not self._queue.stopped.is_set():
            if not self._requests:
                self._begin(self._rows.read_chunk())
                if every:
                    yield None
                continue
            native = self._native_now()
            if native is None:
                self._rows.step(self._histories)
            elif not native.take(len(self._requests)):
                self._begin(self._rows.refill(len(self._lengths) - len(self.requests())))
                if every:
                    yield None
                continue
            scores, parents, tokens, logprobs = self._best_continuations()
            possible = scores > -np.inf
            reasons = self._finish_reasons(parents, tokens, possible)
            ends = (reasons != GOES_ON) & possible
            if self._phrases is not None:
                self._drop_incomplete(self._phrases, scores, parents, tokens, ends)
                ends &= scores > -np.inf
            self._close(scores, parents, tokens, logprobs, ends, reasons)
            rows = self._go_on(scores, parents, tokens, logprobs, ends)
            finished = self._check_done()
            for slot in finished:
                if self._requests[slot].index not in self._cancelled:
                    yield from self._results(slot)
            self._keep(np.setdiff1d(np.arange(len(self._requests)), finished), rows)
            self._begin(self._rows.refill(len(self._lengths) - len(self.requests())))
            if every:
                yield None

    def _native_beams(self) -> NativeBeams | None:
        """Return what takes plain steps without Python; None where there is no native step, or each needs some Python."""
        settings, batch = self._settings, self._batch
        needs_python = (
            settings.processors
            or settings.phrases
            or batch.context.moves
            or self._needs_attention
            or settings.return_state
        )
        if needs_python or not (isinstance(batch, HostBatch | EnsembleBatch) and batch.in_place):
            return None
        return NativeBeams(
            batch, self._queue, self._stopping, self._beam, self._candidates, settings.eos, scores=self._scores, lengths=self._lengths,
            limits=self._limits, ids=self._ids, logprobs=self._logprobs,
        )  # fmt: skip

    def _native_now(self) -> NativeBeams | None:
        """Return what takes plain steps without Python; None while a row reads, or a request may be done after any step.

        So may one that is cancelled, and one of which a group has as many hypotheses as it keeps (`_check_done`).
        """
        if any(request.index in self._cancelled for request in self._requests):
            return None
        if self._native is None or self._batch.size != len(self._requests) * self._beam.num_beams:
            return None
        return None if self._closed.full().any() else self._native

    def _histories(self) -> History:
        """Return the history of every beam, and of every row that still reads."""
        rows = [(p, b) for p in range(len(self._requests)) for b in range(self._beam.num_beams)]
        outputs = [self._ids[p, b, : self._lengths[p]] for p, b in rows]
        return self._rows.histories([self._requests[p] for p, _ in rows], outputs)

    def _begin(self, requests: Sequence[EngineRequest]) -> None:
        """Let requests write whose prompts are read: the first beam of each group counts, the others are still the same."""
        beams = self._beam.num_beams
        new = slice(len(self._requests), len(self._requests) + len(requests))
        self._requests += requests
        self._closed.begin(len(requests))
        self._matchers += [[request.matchers()] * beams for request in requests]
        self._progress += [[self._phrases.start()] * beams for _ in requests if self._phrases is not None]
        self._lengths[new], self._done[new] = 0, False
        self._limits[new] = [self._stopping.limit(request.max_new_tokens) for request in requests]
        self._scores[new] = -np.inf
        self._scores[new, :: self._width] = 0

    def _best_continuations(self) -> tuple[Array, Array, Array, Array]:
        """Return scores, parents, tokens and the model's own log-probabilities of the candidates, [requests, groups, candidates]."""
        n, beams = len(self._requests), self._beam.num_beams
        logits = self._batch.logits[: n * beams]
        down = self._batch.candidates
        edits, own = self._edits(), not self._batch.adds_up
        if self._phrases is not None:
            best, parents, tokens = self._with_phrases(self._phrases, self._edited(logits))
        elif down is not None:
            given = down.logprobs(logits)
            best, parents, tokens = self._pruned(given, np.full(n, True), normalize=False)
        elif not edits.any():
            best, parents, tokens = self._pruned(logits, ~edits, normalize=own)
        else:  # normalising edited rows rounds them once more, so the others are left alone: their bits depend on no other row
            edited, plain = (
                self._pruned(self._edited(logits), edits, normalize=False),
                self._pruned(logits, ~edits, normalize=own),
            )
            best, parents, tokens = (np.where(edits[:, None], *both) for both in zip(edited, plain, strict=True))
        rows = (np.arange(n)[:, None] * beams + parents).ravel()
        possible = tokens.ravel() >= 0
        logprobs = np.full(rows.shape, -np.inf, np.float32)
        if down is None:
            logprobs[possible] = self._own_logprobs(logits, rows[possible], tokens.ravel()[possible])
        else:
            at = rows[possible], tokens.ravel()[possible]
            logprobs[possible] = given[at]
            tokens[tokens >= 0] = down.ids[at]
        shape = (n, self._beam.num_beam_groups, -1)
        return tuple(a.reshape(shape) for a in (best, parents, tokens, logprobs))  # type: ignore[return-value]

    def _with_phrases(self, phrases: Phrases, edited: Array) -> tuple[Array, Array, Array]:
        """Return scores, parents and tokens of the candidates, where outputs must contain phrases."""
        n, beams = len(self._requests), self._beam.num_beams
        best = np.full((n, 2 * self._candidates), -np.inf, np.float32)
        parents, tokens = np.zeros(best.shape, np.int64), np.full(best.shape, -1)
        totals = self._scores[:n, :, None] + edited.reshape(n, beams, -1)
        for slot, total in enumerate(totals):
            own = phrases.candidates(total, self._progress[slot], np.array(self._settings.eos, np.int64), best.shape[1])
            parents[slot, : len(own)], tokens[slot, : len(own)] = own.T
            best[slot, : len(own)] = total[tuple(own.T)]
        return best, parents, tokens

    def _pruned(self, given: Array, which: Array, *, normalize: bool = True) -> tuple[Array, Array, Array]:
        """Return scores, parents and tokens of the candidates of these requests; of the others, nothing is possible."""
        beam, n = self._beam, len(self._requests)
        try:
            return kernels.beam_prune(
                given.reshape(n, beam.num_beams, -1),
                np.where(which[:, None], self._scores[:n], np.float32(-np.inf)),
                self._candidates,
                groups=beam.num_beam_groups,
                diversity_penalty=beam.diversity_penalty,
                eos_token_id=self._settings.eos,
                normalize=normalize,
            )
        except DecodeError as error:
            raise self._fault(error, np.arange(n * beam.num_beams)) from error

    def _edits(self) -> Array:
        """Return, for each request, whether processors or the shortest length edit its log-probabilities in this step."""
        lengths = self._lengths[: len(self._requests)]
        if self._settings.processors:
            return np.full(len(lengths), True)
        return (lengths < self._stopping.min_new_tokens) & (self._stopping.eos_count > 0)

    def _edited(self, logits: Array) -> Array:
        """Return log-probabilities as the processors and the shortest length leave them."""
        beams, lengths = self._beam.num_beams, self._lengths[: len(self._requests)]
        edited = np.zeros_like(logits)
        live = np.flatnonzero(np.isfinite(self._scores[: len(self._requests)]).ravel())
        try:
            edited[live] = logits[live] if self._batch.adds_up else kernels.log_softmax(logits[live])
        except DecodeError as error:
            raise self._fault(error, live) from error
        if self._settings.processors:
            rows = [(row // beams, row % beams) for row in live]
            view = edited[live]

            def history() -> History:
                own = [self._requests[p] for p, _ in rows]
                outputs = [self._ids[p, b, : self._lengths[p]] for p, b in rows]
                return History([r.ids for r in own], outputs, [r.index for r in own])

            each = zip(*(self._matchers[p][b] for p, b in rows), strict=True)
            masks = [self._masks.of(matchers) for matchers in each]
            apply_processors(self._settings.processors, history, view, masks)
            edited[live] = view
        self._stopping.hide_eos(edited, np.repeat(lengths, beams))
        if self._settings.constraints:
            self._leave_stuck(live[~(edited[live] > -np.inf).any(axis=1)])
        return edited

    def _fault(self, error: DecodeError, rows: Array) -> DecodeError:
        """Return a kernel's error about one of these rows as that of its sequence."""
        slot = int(rows[error.row or 0]) // self._beam.num_beams
        return error.of_sequence(self._requests[slot].first, int(self._lengths[slot]))

    def _leave_stuck(self, rows: Array) -> None:
        """Leave the hypotheses at these rows, which no token may follow.

        Raises:
            DecodeError: a request has no other, or the grammar is too complex.
        """
        for slot, beam in zip(*divmod(rows, self._beam.num_beams), strict=True):
            self._scores[slot, beam] = -np.inf
            own = self._matchers[slot][beam]
            others = np.isfinite(self._scores[slot]).any() or self._closed.any_of(slot)
            if not others or any(m.failure for m in own):
                request, step = self._requests[slot], int(self._lengths[slot])
                why = request.why_stuck(own, self._ids[slot, beam, :step])
                raise DecodeError(
                    f"sequence {request.first}, step {step}: no hypothesis can continue; {why}",
                    row=request.first,
                    step=step,
                )

    def _own_logprobs(self, logits: Array, rows: Array, tokens: Array) -> Array:
        """Return the model's log-probabilities of tokens, each after one of the rows."""
        used, which = np.unique(rows, return_inverse=True)
        own_rows = logits if len(used) == len(logits) else logits[used]  # no copy where every beam is alive
        best, logprob = kernels.greedy(own_rows)
        normalizer = own_rows[np.arange(len(used)), best] - logprob
        own: Array = logits[rows, tokens] - normalizer[which]
        return own

    def _finish_reasons(self, parents: Array, tokens: Array, possible: Array) -> Array:
        """Return why hypotheses end with these candidates, of which not all are possible, as indices of `FINISH_REASONS`."""
        n = len(self._requests)
        each = tokens.size // n
        beams = parents.ravel()
        reasons = self._stopping.finish_reasons(
            tokens.ravel(),
            np.repeat(self._lengths[:n] + 1, each),
            np.repeat(self._limits[:n], each),
            lambda i: self._output(i // each, beams[i], tokens.flat[i]),
        )
        if self._settings.constraints and not self._settings.eos:
            for i in np.flatnonzero(possible.ravel()):
                if must_end_with(self._matchers[i // each][beams[i]], int(tokens.flat[i])):
                    reasons[i] = STOPPED
        return reasons.reshape(tokens.shape)

    def _drop_incomplete(self, phrases: Phrases, scores: Array, parents: Array, tokens: Array, ends: Array) -> None:
        """Make candidates impossible, in place, that end before they have all phrases."""
        for at in map(tuple, np.argwhere(ends)):
            progress, token = self._progress[at[0]][parents[at]], int(tokens[at])
            own = progress if token in self._settings.eos else phrases.after(progress, token)
            if not all(own.met):
                scores[at] = -np.inf

    def _output(self, slot: int, beam: int, token: int) -> Array:
        """Return the output of a beam with this token after it."""
        return np.append(self._ids[slot, beam, : self._lengths[slot]], token)

    def _close(
        self, scores: Array, parents: Array, tokens: Array, logprobs: Array, ends: Array, reasons: Array
    ) -> None:
        """Close the hypotheses that end among each group's first candidates; keep the best of each group."""
        closing = ends[:, :, : self._width] & ~self._done[: len(self._requests), :, None]
        for slot, group, rank in np.argwhere(closing):
            at, length = (slot, group, rank), self._lengths[slot] + 1
            reason = FINISH_REASONS[reasons[at]]
            assert reason is not None
            ids = self._output(slot, parents[at], tokens[at])
            own = np.append(self._logprobs[slot, parents[at], : length - 1], logprobs[at]).astype(np.float32)
            score = float(scores[at]) / float(length) ** self._beam.length_penalty
            weights = self._weights(slot, parents[at])
            if weights is not None and self._beam.coverage_penalty:
                covered = weights.sum(0, dtype=np.float64)
                score += self._beam.coverage_penalty * float(np.log(np.minimum(covered[covered > 0], 1)).sum())
            state = None
            if self._settings.return_state:
                row = slot * self._beam.num_beams + parents[at]
                state = state_after(self._network, self._batch, row, self._requests[slot], ids, reason == "eos")
            self._closed.add(slot, group, ClosedHypothesis(score, ids, own, reason, weights, state))

    def _weights(self, slot: int, beam: int) -> Array | None:
        """Return the attention [steps, source] of a hypothesis that continues this beam by the step just taken."""
        if self._batch.attention is None:
            return None
        row = slot * self._beam.num_beams + beam
        last = self._batch.attention[row]
        last = last[: self._batch.context.source_length(row, len(last))]
        steps = int(self._lengths[slot])
        weights = np.zeros((steps + 1, len(last)), np.float32)
        weights[steps] = last
        if self._attention is not None and steps:
            weights[:steps] = self._attention[slot, beam, :steps, : len(last)]
        return weights

    def _remember_attention(self, rows: Array) -> None:
        """Move the weights with their beams and add those of the step just taken."""
        if self._batch.attention is None:
            return
        n, at = len(self._requests), np.arange(len(self._requests))[:, None]
        last = self._batch.attention[: n * self._beam.num_beams].reshape(n, self._beam.num_beams, -1)
        width = last.shape[-1]
        if self._attention is None or self._attention.shape[-1] < width:
            wider = np.zeros((*self._ids.shape, width), np.float32)
            if self._attention is not None:
                wider[..., : self._attention.shape[-1]] = self._attention
            self._attention = wider
        self._attention[:n] = self._attention[at, rows]
        self._attention[at, np.arange(self._beam.num_beams), self._lengths[:n, None], :width] = last[at, rows]

    def _go_on(self, scores: Array, parents: Array, tokens: Array, logprobs: Array, ends: Array) -> Array:
        """Make the best open candidates the new beams, and return the rows of their parents, [requests, beams]."""
        n, beams = len(self._requests), self._beam.num_beams
        open_ = ~ends & (scores > -np.inf) & ~self._done[:n, :, None]
        order = np.argsort(~open_, axis=-1, kind="stable")[:, :, : self._width]

        def pick(array: Array) -> Array:
            return np.take_along_axis(array, order, -1).reshape(n, beams)

        alive = pick(open_)
        rows = np.where(alive, pick(parents), np.arange(beams))
        self._scores[:n] = np.where(alive, pick(scores), -np.inf)
        at = np.arange(n)[:, None]
        self._ids[:n], self._logprobs[:n] = self._ids[at, rows], self._logprobs[at, rows]
        self._ids[at, np.arange(beams), self._lengths[:n, None]] = np.where(alive, pick(tokens), 0)
        self._logprobs[at, np.arange(beams), self._lengths[:n, None]] = pick(logprobs)
        self._remember_attention(rows)

        def go_on(each: list[list[_Of]], after: Callable[[_Of, int], _Of]) -> list[list[_Of]]:
            tokens = self._ids[at, np.arange(beams), self._lengths[:n, None]].tolist()
            return [
                [after(own[row], tokens[p][b]) if alive[p, b] else own[row] for b, row in enumerate(rows[p])]
                for p, own in enumerate(each)
            ]

        if self._settings.constraints:
            self._matchers = go_on(self._matchers, lambda own, token: tuple(m.after(token) for m in own))
        if self._phrases is not None:
            self._progress = go_on(self._progress, self._phrases.after)
        self._lengths[:n] += 1
        return rows

    def _check_done(self) -> Array:
        """Mark the groups that cannot improve any more, and return the requests whose groups are all done."""
        n, beam = len(self._requests), self._beam
        best = self._scores[:n].reshape(n, beam.num_beam_groups, self._width).max(-1).astype(np.float64)
        hopeful = beam.early_stopping == "never" and beam.length_penalty > 0
        length = (self._limits if hopeful else self._lengths)[:n].astype(np.float64)
        hope = best / (length**beam.length_penalty)[:, None]
        # One beam is greedy search, which ends at its first EOS whatever the penalty (as in Hugging Face).
        self._done[:n] |= ~(hope > self._closed.worst()) | (
            self._closed.full() & (beam.early_stopping is True or beam.num_beams == 1)
        )
        self._done[:n] |= (self._lengths[:n] >= self._limits[:n])[:, None]
        if self._cancelled:
            self._done[:n] |= np.array([[r.index in self._cancelled] for r in self._requests], bool).reshape(n, 1)
        # The beams of a group that is done are dead: nothing is computed from them.
        self._scores[:n][np.repeat(self._done[:n], self._width, axis=1)] = -np.inf
        return np.flatnonzero(self._done[:n].all(axis=1))

    def _results(self, slot: int) -> Iterator[FinishedSequence]:
        """Yield the best hypotheses of a request that has ended."""
        request = self._requests[slot]
        if self._phrases is not None and not self._closed.any_of(slot):
            raise DecodeError(
                f"sequence {request.first}: no hypothesis of at most {self._limits[slot]} tokens has all phrases of MustContain; "
                "a larger num_beams or max_new_tokens finds more",
                row=request.first,
            )
        yield from self._closed.results(slot, request)

    def _keep(self, slots: Array, rows: Array) -> None:
        """Go on with the requests at `slots`, each beam from the row of its parent; then come those whose prompts are read."""
        size, beams = len(slots), self._beam.num_beams
        for array in (
            self._lengths,
            self._limits,
            self._scores,
            self._done,
            self._ids,
            self._logprobs,
            self._attention,
        ):
            if array is not None:
                array[:size] = array[slots]
        self._requests = [self._requests[p] for p in slots]
        self._closed.keep(slots)
        self._matchers = [self._matchers[p] for p in slots]
        self._progress = [self._progress[p] for p in slots if self._phrases is not None]
        live = np.isfinite(self._scores[:size])
        self._masks.begin([m for p, b in np.argwhere(live) for m in self._matchers[p][b]])
        read = self._rows.move((slots[:, None] * beams + rows[slots]).ravel())
        self._batch.tokens[: size * beams] = self._ids[np.arange(size), :, self._lengths[:size] - 1].ravel()
        self._begin(read)
