"""Jobs beside decode(): speed, memory, and what Ray adds to a row.

    python -m bench.jobs speed --rows 100000       # LSTM 3x512, 20 to 120 tokens: the aim is 0.9 of decode()
    python -m bench.jobs memory --rows 10000 1000000   # peak memory of a process each: the aim is a ratio of 1.2
    python -m bench.jobs ray --rows 2000 --actors 2    # `--ray` beside one process, that many rows and four times; needs Ray

Whatever is compared runs in turn, and medians are taken, so that what else the machine does meets both sides.
"""

from __future__ import annotations

import argparse
import itertools
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


def write_rows(source: Path, count: int) -> None:
    """Write an input of the kind that its name says."""
    rows = ((f"row {row}", LETTERS[1 + row % 63] * (1 + row % 9)) for row in range(count))
    if source.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        schema = pa.schema([("id", pa.string()), ("prompt", pa.string())])
        with ParquetWriter(source, schema) as writer:
            while group := list(itertools.islice(rows, 100_000)):
                writer.write_table(pa.table(list(zip(*group, strict=True)), schema=schema))
        return
    lines = {".jsonl": '{{"id": "{}", "prompt": "{}"}}\n', ".csv": "{},{}\n", ".txt": "{1}\n"}
    with source.open("w", encoding="utf-8") as file:
        file.write("id,prompt\n" if source.suffix == ".csv" else "")
        file.writelines(lines[source.suffix].format(*row) for row in rows)


def memory(folder: Path, counts: list[int], kind: str, output_kind: str) -> None:
    """Print the peak memory of a process for each number of rows."""
    model, peaks = network(folder / "m.onnx", 16, 1, 64), []
    for count in counts:
        source, output = folder / f"{count}.{kind}", folder / f"{count}.out.{output_kind}"
        write_rows(source, count)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, model, source, output], cwd=ROOT, check=True, capture_output=True, text=True
        )
        peak, rows, seconds = done.stdout.split()
        peaks.append(int(peak))
        print(f"{int(rows):,} rows of {kind} into {output_kind}: peak {peak} MiB, {seconds} s")
        output.unlink()
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


def on_ray(folder: Path, rows: int, actors: int, hidden: int, layers: int, vocab: int, rounds: int) -> None:
    """Print the seconds of jobs of two sizes in one process and on the actors of a cluster on this machine.

    The difference of the sizes is what rows cost, without the start of the actors; the rest of the smaller one is that start.
    """
    import ray

    from decoding.jobs.ray import run

    model = network(folder / "m.onnx", hidden, layers, vocab)
    loaded, options = load(model), {"max_new_tokens": 60, "seed": 1, "eos_token_id": None}
    calls = {
        "workers": lambda prompts, path: jobs.run(loaded, prompts, path, Sample(), workers=actors, **options),
        "actors": lambda prompts, path: run(model, prompts, path, Sample(), actors=actors, **options),
    }
    sizes = (rows, 4 * rows)
    seconds = {(name, size): [] for name in calls for size in sizes}
    ray.init(num_cpus=actors, log_to_driver=False, include_dashboard=False)
    for number in range(rounds):
        for size in sizes:
            prompts, outputs = [LETTERS[1 + row % (vocab - 1)] for row in range(size)], []
            for name, call in calls.items():
                path = folder / f"{name}.{size}.{number}.jsonl"
                seconds[name, size].append(call(prompts, path).seconds)
                outputs.append(sorted(path.read_bytes().splitlines()))
            assert outputs[0] == outputs[1], "outputs differ"
    ray.shutdown()
    found = {key: statistics.median(values) for key, values in seconds.items()}
    a_row = {name: (found[name, sizes[1]] - found[name, sizes[0]]) / (sizes[1] - sizes[0]) for name in calls}
    start = {name: found[name, sizes[0]] - a_row[name] * sizes[0] for name in calls}
    print(f"LSTM {layers}x{hidden}, rows of 60 tokens; outputs equal")
    for name in calls:
        small, large = (found[name, size] for size in sizes)
        print(
            f"{actors} {name}: {sizes[0]:,} rows {small:.2f} s, {sizes[1]:,} rows {large:.2f} s: "
            f"start {start[name]:.2f} s, {a_row[name] * 1e6:.0f} us a row"
        )
    print(
        f"Ray adds {start['actors'] - start['workers']:.2f} s to start and {(a_row['actors'] - a_row['workers']) * 1e6:.0f} us a row"
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
        "--kind",
        choices=["txt", "jsonl", "csv", "parquet"],
        default="jsonl",
        help="of the input whose memory is measured",
    )
    parser.add_argument("--output", choices=["jsonl", "parquet"], default="jsonl", help="the same of the output")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what == "speed":
            speed(folder, (args.rows or [2000])[0], *args.network, args.rounds)
        elif args.what == "memory":
            memory(folder, args.rows or [10_000, 100_000], args.kind, args.output)
        else:
            on_ray(folder, (args.rows or [2000])[0], args.actors, *args.network, args.rounds)


if __name__ == "__main__":
    main()
