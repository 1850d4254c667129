"""What the scripts of the figures share: a figure, and the command line that measures it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Figure:
    """A promise that was measured.

    Attributes:
        measured: a line for each thing that was measured.
        broken: what breaks the promise; empty where it holds.
    """

    measured: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what is broken, where something does not hold."""
        if not holds:
            self.broken.append(otherwise)


def main(about: str | None, measure: Callable[[int, int], Figure], *, short: int, long: int, counted: str) -> int:
    """Measure a figure as the command line says; return 1 where its promise is broken.

    Args:
        about: the script's docstring.
        measure: takes the count and the number of processes.
        short: the count by default.
        long: the count with --long.
        counted: of which things.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=short, help=f"how many {counted} (default: {short})")
    parser.add_argument("--long", action="store_true", help=f"the long form: {long} {counted}")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    start = time.perf_counter()
    figure = measure(long if options.long else options.count, options.jobs)
    print(*figure.measured, *(f"BROKEN: {line}" for line in figure.broken[:20]), sep="\n")
    print(f"{time.perf_counter() - start:.0f} s; {len(figure.broken)} broken")
    return 1 if figure.broken else 0


@contextmanager
def pools(jobs: int) -> Iterator[dict[str, ProcessPoolExecutor]]:
    """Processes for each instruction set of this processor, by its name."""
    from decoding import kernels

    before, context = os.environ.get("DECODING_ISA"), multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        processes = {}
        for name in kernels.instruction_sets():
            os.environ["DECODING_ISA"] = name  # read on import: the processes start at the first call
            processes[name] = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=context))
            assert processes[name].submit(kernels.instruction_set).result() == name
        if before is None:
            del os.environ["DECODING_ISA"]
        else:
            os.environ["DECODING_ISA"] = before
        yield processes
