"""Jobs that are killed; `python scripts/kill_jobs.py` does so 30 times and more."""

import random

import pytest

from scripts import kill_jobs


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_job_that_is_killed_loses_nothing_and_writes_nothing_twice(name, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'rnn-decoding[parquet]'")
    source, output, whole = tmp_path / "in.jsonl", tmp_path / name, tmp_path / f"whole_{name}"
    kill_jobs.write_input(source, 2000)
    sizes = kill_jobs.kill_at_random(
        source, output, 2, random.Random(31)
    )  # kills early: while it starts, and soon after its first line
    kill_jobs.finish(source, output)
    kill_jobs.finish(source, whole)
    assert max(sizes) > 0
    assert kill_jobs.check_equal(output, whole) == 2 * 1980
