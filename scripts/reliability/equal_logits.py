"""See that equal logits give equal tokens, whatever else is in the batch: its size, its order and the number of threads.

    python scripts/reliability/equal_logits.py --long

Each round draws for 256 rows at once, in one thread: that is compared with the same rows in batches of every size from 1 to 256, in another
order each time, with 1 to 16 threads. Log-probabilities are compared bit for bit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from decoding import kernels
from scripts.reliability.figure import Figure, main
from scripts.reliability.specification import FILTERS

ROWS, THREADS = 256, 16
WIDTHS = (7, 65, 257, 1000)


def answers(x: Any, names: Any, steps: Any, filters: dict[str, Any], threads: int) -> list[Any]:
    """Tokens and log-probabilities [rows, ...] of every kernel that draws, whose streams have these names."""
    stream = {"seed": 3, "rows": names, "step": steps}
    return [
        *kernels.draw(x, temperature=0.9, threads=threads, **filters, **stream),
        *kernels.greedy(x),
        *kernels.top_n(x, 3, **stream),
        *kernels.gumbel_top_k(x, 2, **filters, **stream),
    ]


def differing(number: int) -> tuple[int, int]:
    """Return how many numbers one round compares, and how many differ."""
    rng = np.random.default_rng(number)
    x = (rng.normal(size=(ROWS, WIDTHS[number % len(WIDTHS)])) * 3).astype(np.float32)
    filters = FILTERS[number // len(WIDTHS) % len(FILTERS)]
    names, steps = rng.integers(0, 2**40, ROWS), rng.integers(0, 1000, ROWS)
    whole = answers(x, names, steps, filters, 1)
    compared = other = 0
    for size in range(1, ROWS + 1):
        order = rng.permutation(ROWS)
        for rows in np.split(order, range(size, ROWS, size))[
            : 1 + 64 // size
        ]:  # of small batches some: each costs a call
            found = answers(x[rows], names[rows], steps[rows], filters, 1 + size % THREADS)
            for a, b in zip(found, whole, strict=True):
                compared += a.size
                other += (
                    int((a.view(np.uint8) != b[rows].view(np.uint8)).any(axis=-1).sum())
                    if a.ndim > 1
                    else int((a != b[rows]).sum())
                )
    return compared, other


def measure(rounds: int, jobs: int) -> Figure:
    """Compare that many rounds; `jobs` has no part in it."""
    del jobs
    figure = Figure()
    parts = [differing(number) for number in range(rounds)]
    compared, other = (sum(column) for column in zip(*parts, strict=True))
    figure.measured.append(
        f"{rounds} rounds, batches of 1 to {ROWS} rows, 1 to {THREADS} threads: {other} of {compared:,} tokens and log-probabilities differ"
    )
    figure.expect(not other, f"{other} differ")
    return figure


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=2, long=200, counted="rounds"))
