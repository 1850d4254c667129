"""`decode()` on the native step over `decode()` on onnxruntime, over a grid of sizes: python -m bench.executors.

What the rule of `load(..., executor=None)` rests on (docs/benchmarks/native.md). The ratios are of the least times of alternating
runs with sampling. "alone": one thread each. "cores": as `decode()` chooses by itself on all cores, where onnxruntime has its own
default threads.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from decoding import Sample, decode, load
from tests.helpers import build


def least_times(calls, rounds, seconds):
    """The least time of each call, which are taken in turn."""
    best = [np.inf] * len(calls)
    end = time.perf_counter() + seconds
    for number in itertools.count():
        if number >= rounds and time.perf_counter() > end:
            return best
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)


def decoding(model, batch, steps, workers):
    """A call that samples `steps` tokens in each of `batch` rows."""
    return lambda: decode(model, [[1]] * batch, Sample(), seed=1, max_new_tokens=steps, eos_token_id=None,
                          batch_size=batch, workers=workers)  # fmt: skip


def ratio(models, batch, workers, rounds, seconds):
    """Time of the second model over the first's."""
    probe = decoding(models[0], batch, 2, workers)
    once = min(least_times([probe], 3, 0)) / 2
    steps = int(np.clip(0.02 / once, 2, 300))
    first, second = least_times([decoding(m, batch, steps, workers) for m in models], rounds, seconds)
    return second / first


def main() -> None:
    """Print a line for each network: the ratio at each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", default=["LSTM", "GRU"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[32, 128, 256, 512, 1024])
    parser.add_argument("--layers", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--vocab", nargs="+", type=int, default=[64, 1000, 5000, 30000])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--ways", nargs="+", default=["alone", "cores"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each ratio, at least")
    options = parser.parse_args()
    print("| network | weights | numbers | threads |", *(f" {b} |" for b in options.batch))
    for cell, hidden, layers, vocab in itertools.product(options.cells, options.hidden, options.layers, options.vocab):
        proto = build.recurrent(cell, hidden=hidden, layers=layers, vocab=vocab, exposed=True, scale=hidden**-0.5)
        for quantize, way in itertools.product((None, "int8"), options.ways):
            threads, workers = (1, 1) if way == "alone" else (None, None)
            models = [
                load(proto, threads=threads if executor == "onnxruntime" else None, quantize=quantize,
                     executor=executor, verify=False)
                for executor in ("onnxruntime", "native")
            ]  # fmt: skip
            cells = [ratio(models, batch, workers, options.rounds, options.seconds) for batch in options.batch]
            size = models[0].weight_bytes / 2**20
            print(f"| {cell} {layers}x{hidden} V{vocab} | {size:.0f} | {quantize or 'float32'} | {way} |",
                  *(f" {c:.2f} |" for c in cells), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
