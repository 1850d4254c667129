"""Draw with every combination of filters, and see that the tokens have the probabilities of the specification.

    python scripts/reliability/draws.py --long --jobs 2

For each of the 64 combinations and each seed, 4,000 tokens are drawn from one row and compared with its probabilities by a chi-square
test. If the draws are right, the p-values are uniform, which a Kolmogorov-Smirnov test asks of each combination and of all. No token may
be drawn that the filters left out.
"""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from decoding import kernels
from decoding.kernels import reference
from scripts.reliability.figure import Figure, main

WIDTH, DRAWS = 40, 4000
LEAST = 20  # expected draws of a token that is a bin of its own: the chi-square distribution is an approximation
VALUES = {"top_k": 25, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9, "epsilon_cutoff": 2e-3, "eta_cutoff": 3e-3}
COMBINATIONS: list[dict[str, Any]] = [
    {name: VALUES[name] for name in names} for n in range(7) for names in itertools.combinations(VALUES, n)
]


def p_values(seeds: int, number: int) -> tuple[list[float], int]:
    """Return the p-values of one combination, one for each seed, and how many tokens were drawn that it leaves out."""
    filters, rng = COMBINATIONS[number], np.random.default_rng(number)
    row = (rng.normal(size=WIDTH) * 1.5).astype(np.float32)
    temperature = float(np.float32(rng.uniform(0.7, 1.4)))
    expected = DRAWS * reference.filtered(row.astype(np.float64), temperature, **filters)
    bins, rows = expected >= LEAST, np.broadcast_to(row, (DRAWS, WIDTH))
    found, outside = [], 0
    for seed in range(seeds):
        tokens, _ = kernels.draw(rows, temperature=temperature, seed=1000 * seed + number, step=seed, **filters)
        counts = np.bincount(tokens, minlength=WIDTH)
        outside += int(counts[expected == 0].sum())
        observed, wanted = [*counts[bins], counts[~bins].sum()], [*expected[bins], expected[~bins].sum()]
        if wanted[-1] < LEAST:  # too few for a bin: they join the last one
            observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
        found.append(float(stats.chisquare(observed, wanted).pvalue))
    return found, outside


def measure(seeds: int, jobs: int) -> Figure:
    """Test all combinations with that many seeds."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(partial(p_values, seeds), range(len(COMBINATIONS))))
    figure, every = Figure(), np.concatenate([found for found, _ in parts])
    outside = sum(count for _, count in parts)
    uniform = float(stats.kstest(every, "uniform").pvalue)
    least = min(float(stats.kstest(found, "uniform").pvalue) for found, _ in parts)
    figure.measured.append(
        f"{len(every):,} p-values of {len(parts)} combinations and {seeds:,} seeds, {len(every) * DRAWS:,} draws: "
        f"Kolmogorov-Smirnov p = {uniform:.3g} for all, at least {least:.3g} for each; {outside} draws left out by filters"
    )
    figure.expect(outside == 0, f"{outside} draws outside what the filters keep")
    figure.expect(uniform > 1e-6 and least > 1e-6, "the p-values are not uniform")
    return figure


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=10, long=1000, counted="seeds for each combination"))
