"""Jobs beside decode(): speed, memory, and what Ray adds to a row.

    python -m bench.jobs speed --rows 100000       # LSTM 3x512, 20 to 120 tokens: the aim is 0.9 of decode()
    python -m bench.jobs memory --rows 10000 1000000   # peak memory of a process each: the aim is a ratio of 1.2
    python -m bench.jobs ray --rows 4000 --actors 2    # `--ray` beside one process; needs Ray

Whatever is compared runs in turn, and medians are taken, so that what else the machine does meets both sides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from decoding import Request, Sample, decode, jobs, load
from tests.helpers import build

ROOT = Path(__file__).resolve().parents[1]
# A letter for each id, so that outputs have texts.
LETTERS = [chr(0x4E00 + i) for i in range(256)]


def network(path: Path, hidden: int, layers: int, vocab: int) -> Path:
    """Write an LSTM with random weights, a vocabulary and a BOS."""
    metadata = {"decoding.vocab": LETTERS[:vocab], "decoding.bos": 0}
    proto = build.recurrent(
        "LSTM", exposed=True, hidden=hidden, layers=layers, vocab=vocab, scale=1 / np.sqrt(hidden), metadata=metadata
    )
    path.write_bytes(proto.SerializeToString())
    return path


def speed(folder: Path, rows: int, hidden: int, layers: int, vocab: int, rounds: int) -> None:
    """Print tokens a second of decode() and of a job over the same requests, which have 20 to 120 tokens."""
    model = load(network(folder / "m.onnx", hidden, layers, vocab))
    lengths = np.random.default_rng(0).integers(20, 121, rows).tolist()
    source = folder / "in.jsonl"
    source.write_text("".join(f'{{"max_new_tokens": {length}}}\n' for length in lengths))
    requests = [Request(None, max_new_tokens=n, seed=jobs.row_seed(1, i)) for i, n in enumerate(lengths)]
    calls = {
        "decode()": lambda number: decode(model, requests, Sample(), eos_token_id=None),
        "job": lambda number: jobs.run(model, source, folder / f"{number}.jsonl", Sample(), eos_token_id=None, seed=1),
    }
    tokens, elapsed, cpu = sum(lengths), {name: [] for name in calls}, {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            start, own = time.perf_counter(), time.process_time()
            call(number)
            elapsed[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - own)
    print(f"LSTM {layers}x{hidden}, vocabulary {vocab}, {rows:,} rows, {tokens:,} tokens, {os.cpu_count()} cores")
    # Of seconds on a busy machine, those of the CPU say more.
    for unit, times in {"second": elapsed, "second of CPU": cpu}.items():
        of_decode, of_job = (tokens / statistics.median(times[name]) for name in calls)
        print(f"tokens a {unit}: decode() {of_decode:,.0f}, job {of_job:,.0f}, ratio {of_job / of_decode:.3f}")


CHILD = """
import resource, sys
from decoding import Sample, jobs
model, source, output = sys.argv[1:]
report = jobs.run(model, source, output, Sample(), max_new_tokens=4, seed=1, eos_token_id=None, workers=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, report.rows, round(report.seconds, 1))
"""


def memory(folder: Path, counts: list[int], kind: str) -> None:
    """Print the peak memory of a process for each number of rows."""
    model, peaks = network(folder / "m.onnx", 16, 1, 64), []
    for count in counts:
        source, output = folder / f"{count}.{kind}", folder / f"{count}.out.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for row in range(count):
                prompt = LETTERS[1 + row % 63] * (1 + row % 9)
                file.write(f'{{"id": "row {row}", "prompt": "{prompt}"}}\n' if kind == "jsonl" else prompt + "\n")
        done = subprocess.run(
            [sys.executable, "-c", CHILD, model, source, output], cwd=ROOT, check=True, capture_output=True, text=True
        )
        peak, rows, seconds = done.stdout.split()
        peaks.append(int(peak))
        print(f"{int(rows):,} rows of {kind}: peak {peak} MiB, {seconds} s")
        output.unlink()
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


def on_ray(folder: Path, rows: int, actors: int, hidden: int, layers: int, vocab: int) -> None:
    """Print the seconds of a job in one process and on the actors of a cluster on this machine, and the difference a row."""
    import ray

    from decoding.jobs.ray import run

    model = network(folder / "m.onnx", hidden, layers, vocab)
    options = {"max_new_tokens": 60, "seed": 1, "eos_token_id": None}
    prompts = [LETTERS[1 + row % (vocab - 1)] for row in range(rows)]
    ray.init(num_cpus=actors, log_to_driver=False, include_dashboard=False)
    local = jobs.run(load(model), prompts, folder / "local.jsonl", Sample(), workers=actors, **options)
    cluster = run(model, prompts, folder / "ray.jsonl", Sample(), actors=actors, **options)
    equal = sorted((folder / "local.jsonl").read_bytes().splitlines()) == sorted(
        (folder / "ray.jsonl").read_bytes().splitlines()
    )
    ray.shutdown()
    print(
        f"LSTM {layers}x{hidden}, {rows:,} rows of 60 tokens: {actors} workers {local.seconds:.1f} s, {actors} actors {cluster.seconds:.1f} s"
    )
    print(
        f"{(cluster.seconds - local.seconds) / rows * 1e6:.0f} us a row more, the actors' start included; outputs {'equal' if equal else 'DIFFER'}"
    )


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "ray"])
    parser.add_argument("--rows", type=int, nargs="+", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument(
        "--network", type=int, nargs=3, default=[512, 3, 64], metavar=("HIDDEN", "LAYERS", "VOCABULARY")
    )
    parser.add_argument(
        "--kind", choices=["txt", "jsonl"], default="jsonl", help="of the input whose memory is measured"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what == "speed":
            speed(folder, (args.rows or [2000])[0], *args.network, args.rounds)
        elif args.what == "memory":
            memory(folder, args.rows or [10_000, 100_000], args.kind)
        else:
            on_ray(folder, (args.rows or [2000])[0], args.actors, *args.network)


if __name__ == "__main__":
    main()
