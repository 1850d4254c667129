"""Load damaged ONNX files and check that only our own errors come out.

    python scripts/fuzz_models.py --cases 10000 --seed 0 --workers 2

Each case is a file of tests/models/ with bytes flipped, overwritten, cut out, doubled or truncated; the seed and the
number of a case make it again (`--only N` loads one, here, with its traceback). Cases are loaded in child processes,
many in each for speed. What a case ended as is counted:

    loaded, refused   load() returned a model, or raised a DecodingError
    crashed           the process died: inside onnxruntime or onnx, since load() calls no native code of ours
    hung              nothing happened for 10 s
    bug               any other exception: ours to fix
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import subprocess
import sys
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SEEDS = sorted((ROOT / "tests" / "models").glob("*.onnx"))
SECONDS = 10
MEMORY = 8 << 30  # a damaged shape may ask for all there is


def damaged(seed: int, number: int) -> bytes:
    """The bytes of one case."""
    rng = np.random.default_rng((seed, number))
    data = bytearray(SEEDS[rng.integers(len(SEEDS))].read_bytes())
    if rng.random() < 0.15:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.geometric(0.4)):
        at, size = int(rng.integers(len(data))), int(rng.geometric(0.2))
        match rng.integers(16):  # a changed size hardly ever gets past the parser
            case 0:
                del data[at : at + size]
            case 1:
                data[at:at] = data[at : at + size]
            case 2 | 3:
                data[at : at + size] = rng.bytes(min(size, len(data) - at))
            case 4 | 5 | 6 | 7:
                data[at] = int(rng.integers(256))
            case _:
                data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


@dataclass
class Result:
    """How many cases ended how, and what to look at."""

    counts: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    crashed: list[int] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)


def fuzz(seed: int, numbers: range, workers: int = 1) -> Result:
    """Load these cases in child processes."""
    result = Result()
    shares = [numbers[start::workers] for start in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda share: _watch(seed, share, result), shares))
    return result


def _watch(seed: int, numbers: range, result: Result) -> None:
    """Start a child on the cases, and a new one after each case that ends the last."""
    while numbers:
        command = [sys.executable, __file__, "--seed", str(seed), "--child", *map(str, (numbers.start, numbers.stop, numbers.step))]  # fmt: skip
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            done = _listen(child, result)
            if done == len(numbers):
                return
            number = numbers[done]
            end = result.hung if child.poll() is None else result.crashed
            child.kill()
        end.append(number)
        result.counts["hung" if end is result.hung else "crashed"] += 1
        numbers = numbers[done + 1 :]


def _listen(child: subprocess.Popen[bytes], result: Result) -> int:
    """Count the outcomes that the child reports, one line a case, until it ends or is silent for too long."""
    assert child.stdout is not None
    done, patience, rest = 0, SECONDS + 20, b""  # importing takes a while too
    while select.select([child.stdout], [], [], patience)[0]:
        if not (read := os.read(child.stdout.fileno(), 65536)):
            child.wait()
            break
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            mark, outcome, *detail = [*line.decode(errors="replace").split(" ", 2), ""][:3]
            if mark != "case":  # onnxruntime and onnx may have something to say too
                continue
            patience = SECONDS
            if outcome == "ready":
                continue
            result.counts[outcome] += 1
            result.bugs += filter(None, detail)
            done += 1
    return done


def _be_child(seed: int, numbers: range) -> None:
    """Load the cases in this process and print a line for each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.path.insert(0, str(ROOT))
    from decoding import load
    from decoding.errors import DecodingError

    print("case ready", flush=True)
    for number in numbers:
        try:
            load(damaged(seed, number), threads=1)
        except DecodingError:
            print("case refused", flush=True)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = next(f for f in reversed(frames) if "decoding" in f.filename)
            text = " ".join(str(error).split())[:200]
            place = f"{Path(ours.filename).name}:{ours.lineno}"
            print(f"case bug {number} {place} {type(error).__name__}: {text}", flush=True)
        else:
            print("case loaded", flush=True)


def main() -> int:
    """Run the cases that the command line asks for; 1 where one was a bug or a hang."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="load one case in this process")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _be_child(options.seed, range(*options.child))
        return 0
    if options.only is not None:
        sys.path.insert(0, str(ROOT))
        from decoding import load

        print(load(damaged(options.seed, options.only), threads=1).describe())
        return 0
    result = fuzz(options.seed, range(options.cases), options.workers)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(result.counts.items())))
    print(*sorted(result.bugs), sep="\n")
    print(f"crashed: {sorted(result.crashed)}; hung: {sorted(result.hung)}")
    return 1 if result.bugs or result.hung else 0


if __name__ == "__main__":
    sys.exit(main())
