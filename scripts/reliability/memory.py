"""Make calls again and again, and see that the process does not grow.

    python scripts/reliability/memory.py --long

Nine in ten of the calls are kernels in turn, one in ten is decode() with strategies in turn. The resident memory is that of Linux's
/proc/self/statm, after a tenth of the calls and after all.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.reliability.allocations import Operation, kernel_calls
from scripts.reliability.figure import Figure, main

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def decodes() -> list[Operation]:
    """Short calls of decode(), one for each way to decode."""
    from decoding import Beam, Greedy, Sample, TopN, decode, load
    from tests.helpers.build import recurrent

    model = load(recurrent(vocab=11, hidden=8), executor="native", threads=1)
    strategies = (Greedy(), Sample(), Sample(top_k=3, top_p=0.9), TopN(3), Beam(2), Sample(replacement=False))
    return [lambda s=s: decode(model, [[1, 2]], s, max_new_tokens=2, eos_token_id=None, workers=1) for s in strategies]  # type: ignore[misc]


def growth(calls: int, operations: list[Callable[[], object]]) -> int:
    """Return the bytes by which the process grows between a tenth of the calls and all."""
    turn = itertools.cycle(operations)
    for _ in range(calls // 10):
        next(turn)()
    before = resident()
    for _ in range(calls - calls // 10):
        next(turn)()
    return resident() - before


def measure(calls: int, jobs: int) -> Figure:
    """Make that many calls; `jobs` has no part in it."""
    del jobs
    figure = Figure()
    if not STATM.exists():
        figure.measured.append("not run: it needs Linux's /proc")
        return figure
    kinds = {"decode()": (calls // 10, decodes()), "kernels": (calls - calls // 10, list(kernel_calls().values()))}
    for name, (count, operations) in kinds.items():
        grown = growth(count, operations)
        figure.measured.append(f"{name}: {count:,} calls, {grown / 2**10:.0f} KiB more")
        figure.expect(grown <= 1 << 20, f"{name}: grown by {grown} bytes")
    return figure


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=10_000, long=1_000_000, counted="calls"))
