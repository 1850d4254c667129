"""The short forms of the figures in docs/reliability.md; scripts/reliability/ has the long ones.

The others are tests of what they measure: files in tests/model/test_bad_models.py, sanitizers in tests/c/, interrupts in
tests/engine/test_workers.py.
"""

import shutil
import sys

import pytest

from scripts.reliability import allocations, draws, equal_logits, golden, memory, repeats, specification, threads

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or preloads a library of glibc's")


@pytest.mark.parametrize(
    ("measure", "count"),
    [
        pytest.param(specification.measure, 20_000, id="specification"),
        pytest.param(draws.measure, 2, id="draws"),
        pytest.param(equal_logits.measure, 1, id="equal logits"),
        pytest.param(repeats.measure, 2, id="repeats"),
        pytest.param(golden.measure, 5, id="golden"),
        pytest.param(threads.measure, 2, id="threads"),
        pytest.param(memory.measure, 4_000, id="memory", marks=LINUX),
        pytest.param(allocations.measure, 1, id="allocations", marks=LINUX),
    ],
)
def test_the_promise_holds(measure, count):
    if measure is allocations.measure and shutil.which("cc") is None:
        pytest.skip("needs a C compiler named cc")
    figure = measure(count, 1)
    print(*figure.measured, sep="\n")
    assert not figure.broken, figure.broken[:5]


def test_a_broken_promise_is_seen(monkeypatch):
    """The scripts compare: answers of another block are counted as broken."""
    monkeypatch.setattr(specification.Block, "answers", _other_rows)
    block = specification.Block(1)
    want, found = (specification.Block.answers(block, name) for name in ("reference", "kernels"))
    counts, _, broken = specification.compare(block, want, found)
    assert counts["draw None"] > 100
    assert len(broken) > 100


_answers = specification.Block.answers


def _other_rows(block, name):
    from decoding import kernels

    if name == "kernels":
        block = specification.Block(block.number)
        block.stream["seed"] += 1
    return _answers(block, kernels)
