"""Damaged files end in our own errors. `scripts/fuzz_models.py` runs as many as you like."""

from scripts.fuzz_models import fuzz


def test_damaged_files_raise_only_model_errors():
    result = fuzz(seed=2026, numbers=range(500))
    assert not result.bugs
    assert not result.hung
    # What ends the process does so inside onnxruntime; more than a few would say that load() led it there.
    assert len(result.crashed) <= 2
    assert result.counts["refused"] > 100
    assert result.counts["loaded"] > 20
