"""Damaged and wrong files end in our own errors. `scripts/fuzz_models.py` runs as many as you like."""

import pytest

from scripts.fuzz_models import fuzz

# For each kind: how many cases, and at least that many loaded and refused.
KINDS = {"bytes": (500, 20, 100), "structure": (500, 20, 200), "roles": (500, 5, 200)}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_files_and_roles_raise_only_our_errors(kind):
    count, loaded, refused = KINDS[kind]
    result = fuzz(seed=2026, numbers=range(count), kind=kind)
    assert not result.bugs
    assert not result.hung
    assert not result.crashed
    # onnxruntime itself may die; more than a few would say that load() led it there.
    assert len(result.crashed_native) <= 2, result.crashed_native
    assert result.counts["refused"] > refused
    assert result.counts["loaded"] > loaded


@pytest.mark.parametrize(("seed", "number"), [(910, 10122), (910, 42305), (2020, 5359)])
def test_outputs_of_odd_kinds_are_compared_or_refused(seed, number):
    # Scores of whole numbers, scores whose shape follows the batch otherwise than by rows (issue 13), and a vocabulary that
    # follows the length of the prefix.
    assert not fuzz(seed=seed, numbers=range(number, number + 1), kind="structure").bugs
