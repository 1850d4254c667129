"""Stochastic beam search: sampling without replacement (Kool, van Hoof, Welling 2019, "Stochastic Beams")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from decoding import kernels
from decoding.constraints import Masks, Matchers, must_end
from decoding.engine.batch.batch import make_batch
from decoding.engine.batch.ensemble import EnsembleBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.request import Call, EngineRequest, FailedRequest, FinishedSequence, RowSource, Settings
from decoding.engine.search.prefill import RequestRows, RequestSearch
from decoding.engine.search.states import state_after
from decoding.engine.search.stopping import FINISH_REASONS, STOPPED, Stopping
from decoding.errors import DecodeError
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History, apply_processors
from decoding.results import FinishReason
from decoding.strategies import Sample


@dataclass
class Branch:
    """A partial or finished sequence.

    Attributes:
        parent: the row, among those of the request, that the next step continues.
        logprob: under the tempered and filtered distribution that is drawn from.
        perturbed: the same with Gumbel noise; the greatest win, and a child's never exceeds its parent's.
        logprobs: of each token, under the model itself.
        finish_reason: why it ended; None while it is open.
        state: after it, where it has ended and the state is asked for.
        matchers: where it is in the grammars of its constraints.
    """

    parent: int
    logprob: float
    perturbed: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    state: Mapping[str, Array] | None = None
    matchers: Matchers = ()


class StochasticBeamSearch(RequestSearch):
    """Draws `outputs` distinct sequences for each request: a beam search over Gumbel-perturbed log-probabilities.

    The sequences that it finds are a sample without replacement from the distribution that `Sample` with replacement
    draws from, in the order of their perturbed log-probabilities.
    """

    def __init__(self, network: Network, call: Call, settings: Settings, queue: RowSource, rows: int) -> None:
        assert isinstance(settings.strategy, Sample)
        self._network, self._settings, self._queue, self._sample = network, settings, queue, settings.strategy
        self._width = settings.outputs
        self._slots = max(1, rows // self._width)
        batch = make_batch(network, self._slots * self._width, call)
        super().__init__(batch, RequestRows(network, batch, call, queue, self._width))
        if isinstance(batch, HostBatch | EnsembleBatch):
            batch.keeps_before = settings.return_state
        self._stopping = Stopping(settings, network.vocab_size, call.tokenizer)
        self._branches: list[list[Branch]] = []
        self._masks = Masks()

    def run(self, *, every: bool = False) -> Iterator[FinishedSequence | FailedRequest | None]:
        """Decode the whole queue, yielding the sequences of each request as it finishes; with `every`, also None after each step."""
        self._begin(self._rows.refill(self._slots))
        while self._batch.size and not self._queue.stopped.is_set():
            if not self._requests:
                self._begin(self._rows.read_chunk())
                if every:
                    yield None
                continue
            self._rows.step(self._histories)
            self._branches = self._extend()
            open_ = [
                i
                for i, own in enumerate(self._branches)
                if any(b.finish_reason is None for b in own) and self._requests[i].index not in self._cancelled
            ]
            finished = sorted(set(range(len(self._requests))) - set(open_))
            for i in finished:
                if self._requests[i].index in self._cancelled:
                    continue
                yield from self._results(self._requests[i], self._branches[i])
            self._keep(open_)
            self._begin(self._rows.refill(self._slots - len(self.requests())))
            if every:
                yield None

    def _begin(self, requests: list[EngineRequest]) -> None:
        """Start with one empty sequence for each request whose prompt is read; its other rows wait for it to branch."""
        self._requests += requests
        self._branches += [[Branch(0, 0.0, np.inf, matchers=request.matchers())] for request in requests]

    def _histories(self) -> History:
        """Return the history of every row; a row that waits for a branch has that of its first one."""
        rows = [
            (p, own[min(j, len(own) - 1)])
            for p, own in zip(self._requests, self._branches, strict=True)
            for j in range(self._width)
        ]
        return self._rows.histories([p for p, _ in rows], [np.array(b.tokens, np.int64) for _, b in rows])

    def _extend(self) -> list[list[Branch]]:
        """Return the best continuations of each request's open sequences, and its finished ones."""
        requests, branches = self._requests, self._branches
        live = [(i, j, b) for i, own in enumerate(branches) for j, b in enumerate(own) if b.finish_reason is None]
        rows = np.array([i * self._width + j for i, j, _ in live])
        logits = self._batch.logits[rows]
        edited = self._edited(live, logits)
        try:
            tokens, perturbed, scores, _ = kernels.gumbel_top_k(
                logits if edited is None else edited,
                min(self._width, logits.shape[1]),  # a row has no more candidates than tokens
                temperature=np.array([requests[i].temperature for i, _, _ in live], np.float32),
                **self._sample.filters,
                seed=np.array([requests[i].seed for i, _, _ in live], np.uint64),
                rows=np.array([requests[i].stream + j for i, j, _ in live]),
                step=np.array([len(b.tokens) for _, _, b in live]),
                scores=np.array([b.logprob for _, _, b in live]),
                maxima=np.array([b.perturbed for _, _, b in live]),
            )
        except DecodeError as error:
            i, _, branch = live[error.row or 0]
            raise error.of_sequence(requests[i].first, len(branch.tokens)) from error
        best, logprob = kernels.greedy(logits)
        normalizer = logits[np.arange(len(live)), best] - logprob
        ends = np.cumsum([sum(b.finish_reason is None for b in own) for own in branches])
        kept: list[list[Branch]] = []
        for own, start, end in zip(branches, [0, *ends[:-1]], ends, strict=True):
            closed = [b for b in own if b.finish_reason is not None]
            pool = np.concatenate([[b.perturbed for b in closed], perturbed[start:end].ravel()])
            kept.append([])
            for place in _greatest(pool, self._width):
                if place < len(closed):
                    kept[-1].append(closed[place])
                    continue
                row, column = divmod(place - len(closed), tokens.shape[1])
                row, token = start + row, int(tokens[start + row, column])
                _, j, b = live[row]
                logprobs = [*b.logprobs, float(logits[row, token] - normalizer[row])]
                child = Branch(
                    j, float(scores[row, column]), float(pool[place]), [*b.tokens, token], logprobs, matchers=b.matchers
                )
                kept[-1].append(child)
        self._finish(kept)
        return kept

    def _edited(self, live: list[tuple[int, int, Branch]], logits: Array) -> Array | None:
        """Return the logits as the processors and the shortest length leave them; None where nothing edits."""
        lengths = np.array([len(b.tokens) for _, _, b in live])
        if not (self._settings.processors or self._stopping.hides_eos(lengths)):
            return None
        edited = logits.copy()

        def history() -> History:
            outputs = [np.array(b.tokens, np.int64) for _, _, b in live]
            own = [self._requests[i] for i, _, _ in live]
            return History([r.ids for r in own], outputs, [r.index for r in own])

        masks = [self._masks.of(own) for own in zip(*(b.matchers for _, _, b in live), strict=True)]
        apply_processors(self._settings.processors, history, edited, masks)
        self._stopping.hide_eos(edited, lengths)
        for i, _, b in (
            live[row] for row in np.flatnonzero(~(edited > -np.inf).any(axis=1)) if self._settings.constraints
        ):
            request, step = self._requests[i], len(b.tokens)
            why = request.why_stuck(b.matchers, np.array(b.tokens, np.int64))
            raise DecodeError(
                f"sequence {request.first}, step {step}: no token is possible; {why}", row=request.first, step=step
            )
        return edited

    def _finish(self, kept: list[list[Branch]]) -> None:
        """Set why sequences end with their newest tokens."""
        new = [(i, b) for i, own in enumerate(kept) for b in own if b.finish_reason is None]
        reasons = self._stopping.finish_reasons(
            np.array([b.tokens[-1] for _, b in new], np.int64),
            np.array([len(b.tokens) for _, b in new], np.int64),
            np.array([self._stopping.limit(self._requests[i].max_new_tokens) for i, _ in new], np.int64),
            lambda n: np.array(new[n][1].tokens),
        )
        for (i, b), reason in zip(new, reasons, strict=True):
            if b.matchers and FINISH_REASONS[reason] != "eos":
                b.matchers = tuple(m.after(b.tokens[-1]) for m in b.matchers)
                reason = STOPPED if not self._settings.eos and must_end(b.matchers) else reason
            b.finish_reason = FINISH_REASONS[reason]
            if b.finish_reason is not None and self._settings.return_state:
                row, output = i * self._width + b.parent, np.array(b.tokens, np.int64)
                by_eos = b.finish_reason == "eos"
                b.state = state_after(self._network, self._batch, row, self._requests[i], output, by_eos)

    def _results(self, request: EngineRequest, branches: list[Branch]) -> Iterator[FinishedSequence]:
        for rank, b in enumerate(branches):
            assert b.finish_reason is not None
            by_eos = b.finish_reason == "eos"
            yield FinishedSequence(
                request=request,
                sequence=request.first + rank,
                tokens=np.array(b.tokens[: len(b.tokens) - by_eos], np.int64),
                logprobs=np.array(b.logprobs, np.float32),
                logprob=float(np.sum(b.logprobs)),
                finish_reason=b.finish_reason,
                score=b.perturbed,
                siblings=len(branches),
                eos=b.tokens[-1] if by_eos else None,
                state=b.state,
            )

    def _keep(self, open_: list[int]) -> None:
        """Go on with the open requests, every row with the states of its parent and its last token."""
        width = self._width
        self._requests, branches = [self._requests[i] for i in open_], [self._branches[i] for i in open_]
        rows, last = [], []
        for i, own in zip(open_, branches, strict=True):
            spare = [0] * (width - len(own))
            rows += [i * width + p for p in [*(b.parent if b.finish_reason is None else 0 for b in own), *spare]]
            last += [*(b.tokens[-1] for b in own), *spare]
        read = self._rows.move(np.array(rows, np.int64))
        self._batch.tokens[: len(last)] = last
        self._branches = branches
        self._masks.begin([m for own in branches for b in own if b.finish_reason is None for m in b.matchers])
        self._begin(read)


def _greatest(values: Array, count: int) -> list[int]:
    """Return where the greatest values are, in descending order, of equal ones the first; without those that are -inf."""
    if count < len(values):
        # Only what may be among them is sorted: there are V candidates for each of `count` rows (issue 13).
        least = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero((values >= least) & (values > -np.inf))
    else:
        places = np.flatnonzero(values > -np.inf)
    found: list[int] = places[np.argsort(-values[places], kind="stable")][:count].tolist()
    return found
