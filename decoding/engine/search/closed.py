"""The hypotheses of a beam search that have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from decoding.engine.request import EngineRequest, FinishedSequence
from decoding.model.graph.types import Array
from decoding.results import FinishReason


@dataclass
class ClosedHypothesis:
    """A hypothesis that has ended.

    Attributes:
        tokens: new ids, EOS included; `logprobs`: of each.
        attention: weights [tokens, source], where there are some.
        state: after it, where it is asked for.
    """

    score: float
    tokens: Array
    logprobs: Array
    finish_reason: FinishReason
    attention: Array | None
    state: Mapping[str, Array] | None


class ClosedHypotheses:
    """Those of all running requests; each group of beams keeps its best ones.

    Args:
        groups: of each request; `width`: how many hypotheses a group keeps.
    """

    def __init__(self, groups: int, width: int) -> None:
        self._groups, self._width = groups, width
        self._closed: list[list[list[ClosedHypothesis]]] = []  # [requests][groups], the best first

    def begin(self, count: int) -> None:
        """Follow that many more requests."""
        self._closed += [[[] for _ in range(self._groups)] for _ in range(count)]

    def keep(self, slots: Array) -> None:
        """Go on with the requests at `slots`, in that order."""
        self._closed = [self._closed[slot] for slot in slots]

    def add(self, slot: int, group: int, hypothesis: ClosedHypothesis) -> None:
        """Add one, if it is among the best of its group; among equals the first stays."""
        own = self._closed[slot][group]
        own.append(hypothesis)
        own.sort(key=lambda h: -h.score)
        del own[self._width :]

    def any_of(self, slot: int) -> bool:
        """Return whether a request has one."""
        return any(self._closed[slot])

    def full(self) -> Array:
        """Return whether each group has as many as it keeps, bool [requests, groups]."""
        return np.array([[len(own) == self._width for own in groups] for groups in self._closed])

    def worst(self) -> Array:
        """Return the least score that each full group keeps, [requests, groups]; -inf for the others."""
        return np.array(
            [[own[-1].score if len(own) == self._width else -np.inf for own in groups] for groups in self._closed]
        )

    def results(self, slot: int, request: EngineRequest) -> Iterator[FinishedSequence]:
        """Yield the best of a request, the best first: as many as were asked for, or all of them."""
        best = sorted((h for own in self._closed[slot] for h in own), key=lambda h: -h.score)
        best = best[: request.settings.outputs]
        for rank, h in enumerate(best):
            by_eos = h.finish_reason == "eos"
            tokens = h.tokens[: len(h.tokens) - by_eos]
            attention = h.attention if request.settings.return_attention else None
            yield FinishedSequence(
                request=request,
                sequence=request.first + rank,
                tokens=tokens,
                logprobs=h.logprobs,
                logprob=float(np.sum(h.logprobs, dtype=np.float64)),
                finish_reason=h.finish_reason,
                score=h.score,
                siblings=len(best),
                eos=int(h.tokens[-1]) if by_eos else None,
                attention=None if attention is None else attention[: len(tokens)],
                state=h.state,
            )
