"""Kill a job at random times (SIGKILL, as `kill -9` does), start it again each time, and see that nothing is lost or double.

    python scripts/kill_jobs.py --kills 30 --seed 0
    python scripts/kill_jobs.py --kills 30 --output out.parquet --rows 20000

The job is `decoding batch` over JSONL with ids, two outputs a row and some bad rows. After the last kill it runs to its end. Then its
output and its errors, sorted, equal byte for byte those of a job that was never disturbed; a Parquet output has equal rows.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # a job that takes longer hangs
# Two outputs a row of a shipped model, whose native step makes every repetition equal bit for bit.
OPTIONS = ["--temperature", "0.9", "--n", "2", "--max-new-tokens", "40", "--seed", "11", "--token-logprobs"]


def write_input(path: Path, rows: int) -> None:
    """Write rows with ids of both kinds, options of their own, and a bad one among every hundred."""
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            prompt = (
                "bad \u2028 \U0001f600" if row % 100 == 7 else f"ROMEO:\nLine {'abcdefgh'[row % 8] * (row % 5 + 1)}"
            )
            fields: dict[str, Any] = {"id": row if row % 2 else f"row {row}", "prompt": prompt}
            if row % 10 == 3:
                fields["max_new_tokens"] = 20 + row % 30
            file.write(json.dumps(fields) + "\n")


def command(source: Path, output: Path) -> list[str]:
    """Return the command line of the job."""
    return [sys.executable, "-m", "decoding", "batch", "shakespeare", str(source), str(output), *OPTIONS]


def finish(source: Path, output: Path) -> None:
    """Run the job to its end."""
    subprocess.run(command(source, output), cwd=ROOT, check=True, timeout=SECONDS, capture_output=True)


def kill_at_random(source: Path, output: Path, kills: int, rng: random.Random) -> list[int]:
    """Start the job and kill it, again and again; return how many bytes of its lines were there after each kill."""
    lines = output.with_name(output.name + ".partial.jsonl") if output.suffix == ".parquet" else output
    manifest, sizes = output.with_name(output.name + ".manifest.json"), []
    for number in range(kills):
        job = subprocess.Popen(command(source, output), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # One in five while it starts; else from when it appends its first new line on.
        before, start = lines.stat().st_size if lines.exists() else 0, time.monotonic()
        while number % 5 and job.poll() is None and not (lines.exists() and lines.stat().st_size > before):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5) if number % 5 else rng.uniform(0, 1.5 * (time.monotonic() - start + 1)))
        job.kill()
        job.wait()
        sizes.append(lines.stat().st_size if lines.exists() else 0)
        if manifest.exists() and "finished" in json.loads(manifest.read_bytes()):
            break
    return sizes


def contents(output: Path) -> list[Any]:
    """Return what an output has, sorted."""
    if output.suffix != ".parquet":
        return sorted(output.read_bytes().splitlines(keepends=True))
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(output).to_pylist()
    return sorted(rows, key=lambda row: (row["id"], row["rank"]))


def check_equal(disturbed: Path, undisturbed: Path) -> int:
    """Return how many records both outputs have; end with an error where they differ."""
    found, expected = contents(disturbed), contents(undisturbed)
    assert len(found) == len(expected), f"{len(found)} records, and {len(expected)} without kills"
    assert found == expected, "records differ"
    errors = [sorted(Path(f"{path}.errors.jsonl").read_bytes().split(b"\n")) for path in (disturbed, undisturbed)]
    assert errors[0] == errors[1], "bad rows differ"
    return len(found)


def main() -> None:
    """Kill, go on, compare, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="out.jsonl", help="the name of the output, which chooses its kind")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output, undisturbed = folder / "in.jsonl", folder / args.output, folder / ("whole_" + args.output)
        write_input(source, args.rows)
        sizes = kill_at_random(source, output, args.kills, random.Random(args.seed))
        finish(source, output)
        finish(source, undisturbed)
        records = check_equal(output, undisturbed)
        print(f"{len(sizes)} kills; bytes after each: {sizes}; {records} records, equal to those of an undisturbed job")
        if len(sizes) < args.kills:
            sys.exit(f"the job had finished after {len(sizes)} kills: pass more --rows")


if __name__ == "__main__":
    main()
