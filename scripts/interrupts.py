"""Interrupt calls at random times, as Ctrl-C does, and see that none aborts, hangs or leaves a thread.

    python scripts/interrupts.py --count 1000 --seed 0

Each case is a call in a child process: decode(), stream() or decode_iter() with 1 to 4 workers. A child makes many cases one after the
other, each interrupted by SIGINT after a random time; the last is interrupted while the process leaves. Latency is the time from the
signal until the call has ended with KeyboardInterrupt and all its threads are gone; 99 in 100 should take at most a step and 10 ms, on
a machine that does nothing else. After each, the process decodes a few prompts and gets the tokens that it got at first.
Start it where SIGINT is not ignored (not after `nohup`, and in no script's `&`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KINDS = (
    "decode",
    "decode 2",
    "decode 3",
    "decode 4",
    "stream",
    "iter 1",
    "iter 2",
    "iter 3",
    "iter 4",
    "iter 2 blocking",
)
CASES_OF_A_CHILD = 20
SECONDS = 60  # a child that says nothing for that long hangs
LONGEST = 0.15  # until the signal, in seconds
PATIENCE = 0.01  # beyond one step: native steps return to Python that often


def model() -> Any:
    """The model of all calls."""
    import decoding
    from tests.helpers.build import recurrent

    return decoding.load(recurrent(hidden=32), threads=1)


def calls() -> dict[str, Callable[[], Any]]:
    """Every kind of call, each longer than any case lets it run."""
    import decoding

    net = model()
    options: Any = {"max_new_tokens": 50, "eos_token_id": None, "seed": 1}

    def endless(block: bool = False) -> Any:
        for number in iter(int, 1):
            if block and random.random() < 0.1:
                time.sleep(5)
            yield [1 + number, 2]

    def use(results: Any) -> None:
        for _ in results:
            pass

    def of_iterable(workers: int, block: bool = False) -> Callable[[], None]:
        return lambda: use(decoding.decode_iter(net, endless(block), batch_size=8, workers=workers, **options))

    many = [[1, 2]] * 4_000
    return {
        "decode": lambda: decoding.decode(net, many, **options),
        **{f"decode {n}": lambda n=n: decoding.decode(net, many, workers=n, **options) for n in range(2, 5)},  # type: ignore[misc]
        "stream": lambda: use(decoding.stream(net, many, **options)),
        **{f"iter {n}": of_iterable(n) for n in range(1, 5)},
        "iter 2 blocking": of_iterable(2, block=True),
    }


def child(seed: int, count: int) -> None:
    """Make cases in this process, and print a line for each."""
    import decoding

    found, rng, net = calls(), random.Random(seed), model()

    def tokens() -> Any:
        return decoding.decode(
            net, [[1, 2], [3]], decoding.Sample(), max_new_tokens=12, seed=4, workers=rng.randint(1, 2)
        ).tokens

    expected = tokens()
    for function in found.values():  # once before, so that sessions exist
        try:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
            function()
            time.sleep(10)
        except KeyboardInterrupt:
            pass
    for _ in range(count):
        kind = rng.choice(KINDS)
        sent: list[float] = []

        def interrupt(sent: list[float] = sent) -> None:
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(rng.uniform(0, LONGEST), interrupt)
        print(json.dumps({"kind": kind}), flush=True)
        outcome, before = "finished", set(threading.enumerate())
        try:
            timer.start()
            found[kind]()
            time.sleep(10)  # the signal is still to come
        except KeyboardInterrupt:
            outcome = "interrupted"
        timer.join()
        while (left := threads_left(kind, before)) and time.perf_counter() < sent[0] + 2:
            time.sleep(0.0005)
        latency = time.perf_counter() - sent[0]
        other = tokens() != expected
        print(
            json.dumps({"kind": kind, "outcome": outcome, "latency": latency, "left": left, "other": other}), flush=True
        )
    leaving = decoding.decode_iter(net, iter(lambda: [1, 2], 0), max_new_tokens=5, workers=rng.randint(2, 4))
    next(leaving)  # its threads run while the process leaves


def threads_left(kind: str, before: set[threading.Thread]) -> int:
    """Return how many threads there are that were not there before; one that is blocked in an iterable cannot be stopped."""
    blocked = "decoding-reader" if "blocking" in kind else ""
    return sum(thread.name != blocked for thread in threading.enumerate() if thread not in before)


def run(count: int, seed: int) -> tuple[Counter[str], list[float]]:
    """Run cases in children; return how many ended how, and the latencies in seconds."""
    counts: Counter[str] = Counter()
    latencies: list[float] = []
    for start in range(0, count, CASES_OF_A_CHILD):
        size = min(CASES_OF_A_CHILD, count - start)
        command = [sys.executable, __file__, "--child", str(seed * 1_000_003 + start), "--count", str(size)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, errors = process.communicate(timeout=SECONDS + size)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
            counts["hung"] += 1
        lines = [json.loads(line) for line in out.splitlines()]
        done = [line for line in lines if "latency" in line]
        if process.returncode not in (0, -signal.SIGKILL):
            counts["aborted"] += 1
        if process.returncode or any(line["outcome"] != "interrupted" for line in done):
            last = next((line for line in done if line["outcome"] != "interrupted"), lines[-1:])
            print(f"child {command[-3]}: {process.returncode}, {last}\n{errors[-2000:]}", file=sys.stderr)
        counts.update(line["outcome"] for line in done)
        counts["threads left"] += sum(line["left"] > 0 for line in done)
        counts["other tokens afterwards"] += sum(line["other"] for line in done)
        latencies += [line["latency"] for line in done]
    return counts, latencies


def step_seconds() -> float:
    """Return how long one step of a batch of these calls takes."""
    import decoding

    net, steps = model(), 200
    start = time.perf_counter()
    decoding.decode(net, [[1, 2]] * 64, max_new_tokens=steps, eos_token_id=None, workers=1)
    return (time.perf_counter() - start) / steps


def main() -> int:
    """Interrupt as many calls as the command line asks for; 1 where one aborted, hung, left a thread or changed what comes after."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.count)
        return 0
    counts, latencies = run(options.count, options.seed)
    latencies.sort()
    at = {
        name: latencies[min(len(latencies) - 1, int(p * len(latencies)))] for name, p in (("p50", 0.5), ("p99", 0.99))
    }
    print(dict(counts), {name: f"{1000 * s:.1f} ms" for name, s in at.items()}, f"worst {1000 * latencies[-1]:.1f} ms")
    print(
        f"a step: {1000 * (step := step_seconds()):.2f} ms; p99 is {'within' if at['p99'] <= step + PATIENCE else 'above'} a step and 10 ms"
    )
    wrong = ("aborted", "hung", "threads left", "finished", "other tokens afterwards")
    return 1 if any(counts[how] for how in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
