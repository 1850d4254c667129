"""Sampling without replacement: stochastic beam search (Kool, van Hoof, Welling 2019, "Stochastic Beams")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from decoding import kernels
from decoding.engine.batch.host import make_batch
from decoding.engine.request import FinishedSequence, Request, RequestQueue, Settings
from decoding.engine.search.prefill import PromptRows
from decoding.engine.search.stopping import stops
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.processors import History, apply_processors
from decoding.results import FinishReason
from decoding.strategies import Sample


@dataclass
class Beam:
    """A partial or finished sequence.

    Attributes:
        parent: row, within the prompt, that the next step continues.
        logprob: under the tempered and filtered distribution that is drawn from.
        perturbed: the same with Gumbel noise; the greatest win, and a child's never exceeds its parent's.
        logprobs: of each token, under the model itself.
    """

    parent: int
    logprob: float
    perturbed: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: FinishReason | None = None


class StochasticBeamSearch:
    """Draws `outputs` distinct sequences for each prompt: a beam search over Gumbel-perturbed log-probabilities.

    The sequences that it gives are a sample without replacement from the distribution that `Sample` with replacement
    draws from, in the order of their perturbed log-probabilities.
    """

    def __init__(self, model: Model, settings: Settings, source: RequestQueue, rows: int) -> None:
        assert isinstance(settings.strategy, Sample)
        self._model, self._settings, self._queue, self._sample = model, settings, source, settings.strategy
        self._width = settings.outputs
        self._slots = max(1, rows // self._width)
        self._batch = make_batch(model, self._slots * self._width, settings)
        self._rows = PromptRows(model, self._batch, settings, source, self._width)
        self._prompts: list[Request] = []
        self._beams: list[list[Beam]] = []

    def run(self) -> Iterator[FinishedSequence]:
        """Decode everything that the source gives, yielding each prompt's sequences as it finishes."""
        self._begin(self._rows.refill(self._slots))
        while self._batch.size and not self._queue.stopped.is_set():
            if not self._prompts:
                self._begin(self._rows.read_chunk())
                continue
            self._batch.context.refresh(self._histories, self._batch.size)
            self._batch.step()
            self._rows.step()
            self._beams = self._extend()
            open_ = [i for i, own in enumerate(self._beams) if any(b.reason is None for b in own)]
            finished = sorted(set(range(len(self._prompts))) - set(open_))
            for i in finished:
                yield from self._results(self._prompts[i], self._beams[i])
            self._keep(open_)
            self._begin(self._rows.refill(len(finished)))

    def _begin(self, prompts: list[Request]) -> None:
        """One empty sequence for each prompt that was read; its other rows wait for it to branch."""
        self._prompts += prompts
        self._beams += [[Beam(0, 0.0, np.inf)] for _ in prompts]

    def _histories(self) -> History:
        """What every row has so far; rows that wait for a branch have what the first has."""
        rows = [
            (p, own[min(j, len(own) - 1)])
            for p, own in zip(self._prompts, self._beams, strict=True)
            for j in range(self._width)
        ]
        return self._rows.histories([p.ids for p, _ in rows], [np.array(b.tokens, np.int64) for _, b in rows])

    def _extend(self) -> list[list[Beam]]:
        """The best continuations of each prompt's open sequences, beside its finished ones."""
        prompts, beams = self._prompts, self._beams
        live = [(i, j, b) for i, own in enumerate(beams) for j, b in enumerate(own) if b.reason is None]
        rows = np.array([i * self._width + j for i, j, _ in live])
        logits = self._batch.logits[rows]
        edited = self._edited(prompts, live, logits)
        tokens, perturbed, scores, _ = kernels.gumbel_top_k(
            logits if edited is None else edited,
            self._width,
            temperature=np.array([prompts[i].temperature for i, _, _ in live], np.float32),
            **self._sample.filters,
            seed=self._settings.seed,
            rows=np.array([prompts[i].index * self._width + j for i, j, _ in live]),
            step=np.array([len(b.tokens) for _, _, b in live]),
            scores=np.array([b.logprob for _, _, b in live]),
            maxima=np.array([b.perturbed for _, _, b in live]),
        )
        pools = [[b for b in own if b.reason is not None] for own in beams]
        best, logprob = kernels.greedy(logits)
        normalizer = logits[np.arange(len(live)), best] - logprob
        for row, (i, j, b) in enumerate(live):
            for token, g, score in zip(tokens[row], perturbed[row], scores[row], strict=True):
                if token >= 0:
                    own = float(logits[row, token] - normalizer[row])
                    child = Beam(j, float(score), float(g), [*b.tokens, int(token)], [*b.logprobs, own])
                    pools[i].append(child)
        kept = [sorted(pool, key=lambda b: -b.perturbed)[: self._width] for pool in pools]
        for own_beams in kept:
            for b in own_beams:
                b.reason = b.reason or self._reason(b)
        return kept

    def _edited(self, prompts: list[Request], live: list[tuple[int, int, Beam]], logits: Array) -> Array | None:
        """The logits as the processors and the shortest length leave them; None where nothing edits."""
        short = np.array([len(b.tokens) < self._settings.min_new_tokens for _, _, b in live])
        if not (self._settings.processors or (short.any() and self._settings.eos)):
            return None
        edited = logits.copy()
        outputs = [np.array(b.tokens, np.int64) for _, _, b in live]
        apply_processors(self._settings.processors, History([prompts[i].ids for i, _, _ in live], outputs), edited)
        edited[np.ix_(short, np.array(self._settings.eos, np.int64))] = -np.inf
        return edited

    def _reason(self, beam: Beam) -> FinishReason | None:
        if beam.tokens[-1] in self._settings.eos:
            return "eos"
        if (self._settings.stop or self._settings.stop_strings) and stops(
            self._model, self._settings, np.array(beam.tokens)
        ):
            return "stop"
        return "length" if len(beam.tokens) == self._settings.max_new_tokens else None

    def _results(self, prompt: Request, beams: list[Beam]) -> Iterator[FinishedSequence]:
        for rank, b in enumerate(beams):
            assert b.reason is not None
            ids = np.array(b.tokens[: len(b.tokens) - (b.reason == "eos")], np.int64)
            logprobs = np.array(b.logprobs, np.float32)
            yield FinishedSequence(
                prompt.index * self._width + rank,
                ids,
                logprobs,
                float(np.sum(b.logprobs)),
                b.reason,
                b.perturbed,
                len(beams),
            )

    def _keep(self, open_: list[int]) -> None:
        """Go on with the open prompts, every row with the states of its parent and its last token."""
        width = self._width
        self._prompts, beams = [self._prompts[i] for i in open_], [self._beams[i] for i in open_]
        rows, last = [], []
        for i, own in zip(open_, beams, strict=True):
            spare = [0] * (width - len(own))
            rows += [i * width + p for p in [*(b.parent if b.reason is None else 0 for b in own), *spare]]
            last += [*(b.tokens[-1] for b in own), *spare]
        read = self._rows.move(np.array(rows, np.int64))
        self._batch.tokens[: len(last)] = last
        self._beams = beams
        self._begin(read)
