"""Beam search: each prompt keeps its num_beams best hypotheses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from decoding import kernels
from decoding.engine.batch.device import beam_candidates
from decoding.engine.batch.host import make_batch
from decoding.engine.request import FinishedSequence, Request, RequestQueue, Settings
from decoding.engine.search.prefill import PromptRows
from decoding.engine.search.stopping import stops
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.processors import History, apply_processors
from decoding.results import FinishReason
from decoding.strategies import Beam


@dataclass
class Hypothesis:
    """A closed hypothesis: new ids with EOS left out, log-probabilities with it."""

    score: float
    tokens: Array
    logprobs: Array
    reason: FinishReason
    attention: Array | None


class BeamSearch:
    """The step loop over prompts of num_beams rows each.

    The rules are those of Hugging Face's `_beam_search` (transformers 5): candidates are the best 2 * num_beams
    continuations; those that end, if among the first num_beams, are closed; the best num_beams of the others go on.
    Each group of beams searches, closes and stops by itself. Arrays are [prompts, beams, ...].
    """

    def __init__(self, model: Model, settings: Settings, source: RequestQueue, rows: int) -> None:
        assert isinstance(settings.strategy, Beam)
        self._model, self._settings, self._queue, self._beam = model, settings, source, settings.strategy
        self._needs_attention = settings.return_attention or settings.strategy.coverage_penalty != 0
        self._attention: Array | None = None  # [places, beams, steps, source]
        beams = self._beam.num_beams
        slots = max(1, rows // beams)
        self._batch = make_batch(model, slots * beams, settings, attention=self._needs_attention)
        self._rows = PromptRows(model, self._batch, settings, source, beams)
        self._is_eos = np.zeros(model.vocab_size, bool)
        self._is_eos[list(settings.eos)] = True
        self._candidates = beam_candidates(self._beam, settings)
        self._prompts: list[Request] = []
        self._closed: list[list[list[Hypothesis]]] = []
        self._lengths = np.zeros(slots, np.int64)
        self._scores = np.zeros((slots, beams), np.float32)
        self._done = np.zeros((slots, self._beam.num_beam_groups), bool)
        self._ids = np.zeros((slots, beams, settings.max_new_tokens), np.int64)
        self._logprobs = np.zeros((slots, beams, settings.max_new_tokens), np.float32)

    def run(self) -> Iterator[FinishedSequence]:
        """Decode everything that the source gives, yielding each prompt's hypotheses as it finishes."""
        self._begin(self._rows.refill(len(self._lengths)))
        while self._batch.size and not self._queue.stopped.is_set():
            if not self._prompts:
                self._begin(self._rows.read_chunk())
                continue
            self._batch.context.refresh(self._histories, self._batch.size)
            self._batch.step()
            self._rows.step()
            scores, parents, tokens, logprobs = self._best_continuations()
            ends, reasons = self._endings(scores, parents, tokens)
            self._close(scores, parents, tokens, logprobs, ends, reasons)
            rows = self._go_on(scores, parents, tokens, logprobs, ends)
            finished = self._check_done()
            for slot in finished:
                yield from self._results(slot)
            self._keep(np.setdiff1d(np.arange(len(self._prompts)), finished), rows)
            self._begin(self._rows.refill(len(finished)))

    def _histories(self) -> History:
        """What every beam has so far, and every row that still reads."""
        rows = [(p, b) for p in range(len(self._prompts)) for b in range(self._beam.num_beams)]
        outputs = [self._ids[p, b, : self._lengths[p]] for p, b in rows]
        return self._rows.histories([self._prompts[p].ids for p, _ in rows], outputs)

    def _begin(self, prompts: Sequence[Request]) -> None:
        """Let prompts write that were read: the first beam of each group counts, the others are still the same."""
        beams, groups = self._beam.num_beams, self._beam.num_beam_groups
        slots = slice(len(self._prompts), len(self._prompts) + len(prompts))
        self._prompts += prompts
        self._closed += [[[] for _ in range(groups)] for _ in prompts]
        self._lengths[slots], self._done[slots] = 0, False
        self._scores[slots] = -np.inf
        self._scores[slots, :: beams // groups] = 0

    def _best_continuations(self) -> tuple[Array, Array, Array, Array]:
        """Scores, parents, tokens and the model's own log-probabilities of the candidates, [prompts, groups, candidates]."""
        beam, n = self._beam, len(self._prompts)
        scores = self._scores[:n]
        logits = self._batch.logits[: n * beam.num_beams]
        down = self._batch.candidates
        edited = self._edited(logits) if down is None else down.logprobs(logits)
        given = (logits if edited is None else edited).reshape(n, beam.num_beams, -1)
        best, parents, tokens = kernels.beam_prune(
            given,
            scores,
            self._candidates,
            groups=beam.num_beam_groups,
            diversity_penalty=beam.diversity_penalty,
            eos_token_id=self._settings.eos,
            normalize=edited is None,
        )
        rows = (np.arange(n)[:, None] * beam.num_beams + parents).ravel()
        possible = tokens.ravel() >= 0
        logprobs = np.full(rows.shape, -np.inf, np.float32)
        if down is None:
            logprobs[possible] = self._own_logprobs(logits, rows[possible], tokens.ravel()[possible])
        else:
            at = rows[possible], tokens.ravel()[possible]
            logprobs[possible] = given.reshape(len(logits), -1)[at]
            tokens[tokens >= 0] = down.ids[at]
        shape = (n, beam.num_beam_groups, -1)
        return tuple(a.reshape(shape) for a in (best, parents, tokens, logprobs))  # type: ignore[return-value]

    def _edited(self, logits: Array) -> Array | None:
        """Log-probabilities as the processors and the shortest length leave them; None where nothing edits."""
        short = self._lengths[: len(self._prompts)] < self._settings.min_new_tokens
        if not (self._settings.processors or (short.any() and self._settings.eos)):
            return None
        beams = self._beam.num_beams
        edited = np.zeros_like(logits)
        live = np.flatnonzero(np.isfinite(self._scores[: len(self._prompts)]).ravel())
        edited[live] = kernels.log_softmax(logits[live])
        if self._settings.processors:
            rows = [(row // beams, row % beams) for row in live]
            outputs = [self._ids[p, b, : self._lengths[p]] for p, b in rows]
            view = edited[live]
            apply_processors(self._settings.processors, History([self._prompts[p].ids for p, _ in rows], outputs), view)
            edited[live] = view
        edited[np.ix_(np.repeat(short, beams), self._is_eos)] = -np.inf
        return edited

    def _own_logprobs(self, logits: Array, rows: Array, tokens: Array) -> Array:
        """The model's log-probabilities of tokens, each after one of the rows."""
        used, which = np.unique(rows, return_inverse=True)
        own_rows = logits if len(used) == len(logits) else logits[used]  # no copy where every beam is alive
        best, logprob = kernels.greedy(own_rows)
        normalizer = own_rows[np.arange(len(used)), best] - logprob
        own: Array = logits[rows, tokens] - normalizer[which]
        return own

    def _endings(self, scores: Array, parents: Array, tokens: Array) -> tuple[Array, Array]:
        """Which candidates end a hypothesis, and why ("" for those that do not)."""
        n = len(self._prompts)
        reasons = np.full(tokens.shape, "", object)
        reasons[(self._lengths[:n] + 1 == self._settings.max_new_tokens)] = "length"
        if self._settings.stop or self._settings.stop_strings:
            for at in np.argwhere(tokens >= 0):
                if stops(self._model, self._settings, self._output(at[0], parents[tuple(at)], tokens[tuple(at)])):
                    reasons[tuple(at)] = "stop"
        reasons[self._is_eos[tokens] & (tokens >= 0)] = "eos"
        return (reasons != "") & (scores > -np.inf), reasons

    def _output(self, slot: int, beam: int, token: int) -> Array:
        return np.append(self._ids[slot, beam, : self._lengths[slot]], token)

    def _close(
        self, scores: Array, parents: Array, tokens: Array, logprobs: Array, ends: Array, reasons: Array
    ) -> None:
        """Close the hypotheses that end among each group's first candidates; keep the best of each group."""
        width = self._beam.num_beams // self._beam.num_beam_groups
        closing = ends[:, :, :width] & ~self._done[: len(self._prompts), :, None]
        for slot, group, rank in np.argwhere(closing):
            at, length = (slot, group, rank), self._lengths[slot] + 1
            reason = reasons[at]
            ids = self._output(slot, parents[at], tokens[at])
            own = np.append(self._logprobs[slot, parents[at], : length - 1], logprobs[at]).astype(np.float32)
            score = float(scores[at]) / float(length) ** self._beam.length_penalty
            weights = self._weights(slot, parents[at])
            if weights is not None and self._beam.coverage_penalty:
                covered = weights.sum(0, dtype=np.float64)
                score += self._beam.coverage_penalty * float(np.log(np.minimum(covered[covered > 0], 1)).sum())
            self._closed[slot][group].append(
                Hypothesis(score, ids[:-1] if reason == "eos" else ids, own, reason, weights)
            )
        for closed in (c for slot in self._closed for c in slot):
            closed.sort(key=lambda h: -h.score)
            del closed[width:]

    def _weights(self, slot: int, beam: int) -> Array | None:
        """Attention [steps, source] of a hypothesis that continues this beam by the step just taken."""
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
        n, at = len(self._prompts), np.arange(len(self._prompts))[:, None]
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
        """Make the best open candidates the new beams; the rows of their parents, [prompts, beams]."""
        n, beams = len(self._prompts), self._beam.num_beams
        width = beams // self._beam.num_beam_groups
        open_ = ~ends & (scores > -np.inf) & ~self._done[:n, :, None]
        order = np.argsort(~open_, axis=-1, kind="stable")[:, :, :width]

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
        self._lengths[:n] += 1
        return rows

    def _check_done(self) -> Array:
        """Mark the groups that cannot improve any more; the places whose groups are all done."""
        n, beam = len(self._prompts), self._beam
        width = beam.num_beams // beam.num_beam_groups
        best = self._scores[:n].reshape(n, beam.num_beam_groups, width).max(-1).astype(np.float64)
        hopeful = beam.early_stopping == "never" and beam.length_penalty > 0
        length = np.full(n, float(self._settings.max_new_tokens)) if hopeful else self._lengths[:n].astype(np.float64)
        hope = best / (length**beam.length_penalty)[:, None]
        full = np.array([[len(c) == width for c in slot] for slot in self._closed])
        worst = np.array([[c[-1].score if len(c) == width else -np.inf for c in slot] for slot in self._closed])
        # One beam is greedy search, which ends at its first EOS whatever the penalty (as in Hugging Face).
        self._done[:n] |= ~(hope > worst) | (full & (beam.early_stopping is True or beam.num_beams == 1))
        self._done[:n] |= (self._lengths[:n] == self._settings.max_new_tokens)[:, None]
        # The beams of a group that is done are dead: nothing is computed from them.
        self._scores[:n][np.repeat(self._done[:n], width, axis=1)] = -np.inf
        return np.flatnonzero(self._done[:n].all(axis=1))

    def _results(self, slot: int) -> Iterator[FinishedSequence]:
        """The best closed hypotheses of a prompt, as many as were asked for if there are so many."""
        closed = sorted((h for group in self._closed[slot] for h in group), key=lambda h: -h.score)[
            : self._settings.outputs
        ]
        first = self._prompts[slot].index * self._settings.outputs
        for rank, h in enumerate(closed):
            logprob = float(np.sum(h.logprobs, dtype=np.float64))
            attention = (
                h.attention[: len(h.tokens)] if h.attention is not None and self._settings.return_attention else None
            )
            yield FinishedSequence(
                first + rank, h.tokens, h.logprobs, logprob, h.reason, h.score, len(closed), attention=attention
            )

    def _keep(self, slots: Array, rows: Array) -> None:
        """Go on with the prompts at `places`, each beam from the row of its parent; prompts that were read follow."""
        size, beams = len(slots), self._beam.num_beams
        for array in (self._lengths, self._scores, self._done, self._ids, self._logprobs, self._attention):
            if array is not None:
                array[:size] = array[slots]
        self._prompts = [self._prompts[p] for p in slots]
        self._closed = [self._closed[p] for p in slots]
        read = self._rows.move((slots[:, None] * beams + rows[slots]).ravel())
        self._batch.tokens[: size * beams] = self._ids[np.arange(size), :, self._lengths[:size] - 1].ravel()
        self._begin(read)
