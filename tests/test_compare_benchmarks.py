"""scripts/compare_benchmarks.py: what counts as slower."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts/compare_benchmarks.py"


def run(tmp_path, base, head):
    """Compare rounds, each a dict of medians in seconds by name, with a limit of 1.25."""
    arguments = [sys.executable, str(SCRIPT), "--limit", "1.25"]
    for side, rounds in (("--base", base), ("--head", head)):
        arguments.append(side)
        for i, medians in enumerate(rounds):
            path = tmp_path / f"{side}{i}.json"
            found = [{"fullname": name, "stats": {"median": median}} for name, median in medians.items()]
            path.write_text(json.dumps({"benchmarks": found}))
            arguments.append(str(path))
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_slower_in_every_round_fails_and_names_the_benchmark_first(tmp_path):
    done = run(
        tmp_path, [{"draw": 1e-5, "beam": 1e-5}], [{"draw": 1e-5, "beam": 1.4e-5}, {"draw": 2e-5, "beam": 1.3e-5}]
    )
    assert done.returncode == 1
    assert "1 benchmarks are slower" in done.stderr
    assert "| 1.30 | 10.0 | beam |" in done.stdout.splitlines()[2]


def test_one_slow_round_is_noise_and_new_benchmarks_are_left_out(tmp_path):
    done = run(tmp_path, [{"draw": 1e-5}], [{"draw": 9e-5, "new": 1.0}, {"draw": 1.1e-5, "new": 1.0}])
    assert done.returncode == 0, done.stderr
    assert "new" not in done.stdout


def test_nothing_in_common_is_an_error(tmp_path):
    done = run(tmp_path, [{"draw": 1e-5}], [{"beam": 1e-5}])
    assert done.returncode == 1
    assert "no benchmark in common" in done.stderr
