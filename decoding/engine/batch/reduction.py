"""Which of a step's logits are copied from a device: all, the best, or only a token drawn there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decoding.engine.request import Call, Settings
from decoding.filters import ALL_OFF
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.model.passes.device_step import Reduction
from decoding.strategies import Beam, Greedy, TopN

# A step's logits are reduced on the device where they have at least that many bytes, and the reduced ones are at most
# a fourth of that. A rule of bytes: no GPU has measured it.
LEAST_BYTES = 256 << 10
_AT_MOST = 0.25


def reduction_for(network: Network, call: Call, rows: int) -> Reduction | None:
    """Return how to reduce the logits on the device; None where all of them come down.

    They must where something looks at other logits than the best (processors, `min_new_tokens`, `logprobs=`, a teacher, filters
    without top-k, diverse beams, stochastic beam search), and may as well where they are few.
    """
    settings = call.settings
    looks = (
        settings.processors
        or settings.top_logprobs
        or call.teacher_ratio is not None
        or (settings.min_new_tokens and settings.eos)
    )
    reduction = None if looks else _enough_for(settings)
    whole = network.vocab_size * 4
    if reduction is None or rows * whole < LEAST_BYTES or (2 * reduction.count + 1) * 8 > _AT_MOST * whole:
        return None
    return reduction if network.can_reduce else None


def beam_candidates(beam: Beam, settings: Settings) -> int:
    """Return half of the number of continuations to look at: with several EOS ids more of them may end (as in Hugging Face)."""
    return beam.num_beams * max(1, (2 + len(settings.eos)) // 2)


def _enough_for(settings: Settings) -> Reduction | None:
    """Return the reduction that is enough for the strategy: one logit more than it needs, to see ties. None: it needs all."""
    strategy = settings.strategy
    if isinstance(strategy, Greedy):
        return Reduction("best", 2)
    if isinstance(strategy, TopN):
        return Reduction("best", strategy.n + 1)
    if isinstance(strategy, Beam):
        best = 2 * beam_candidates(strategy, settings) // strategy.num_beam_groups
        return None if strategy.diversity_penalty else Reduction("best", best + 1)
    if strategy.searches_together:
        return None
    if strategy.top_k:
        return Reduction("best", strategy.top_k + 1)
    return Reduction("draw") if strategy.filters == ALL_OFF else None


@dataclass(frozen=True)
class Candidates:
    """The logits that came down instead of all.

    Attributes:
        ids: int64 [capacity, k], ascending: the ids of the batch's `logits` [capacity, k].
        normalizers: float64 [capacity], the log of the sum of all exponentials of the row.
    """

    ids: Array
    normalizers: Array

    def logprobs(self, logits: Array) -> Array:
        """Return float32 log-probabilities of the first rows; NaN, inf or -inf where the sum of a row is none that they could have."""
        normalizers = self.normalizers[: len(logits), None]
        given = np.broadcast_to(normalizers, logits.shape).astype(np.float32)
        np.subtract(logits, normalizers, out=given, where=np.isfinite(normalizers), casting="same_kind")
        return given
