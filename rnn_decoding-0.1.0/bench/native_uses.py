"""What the native step gives to what people do: sample-level audio, small jobs in several workers, many sequences.

    BENCH_SEQUENCES=1000 python -m bench.native_uses

Peers run in turn in one process; the least of the rounds counts.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

import decoding
from bench.test_engine import network
from decoding import Sample, decode, load
from tests.helpers import build


def least(rounds, *functions):
    """Return the least time of each function, run in turn."""
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def audio(steps=8000):
    """Steps a second of a GRU of LPCNet's size (384 units, 256 levels) for one stream of samples."""
    proto = build.recurrent("GRU", exposed=True, hidden=384, vocab=256, scale=0.05)
    ways = {"float32": {}, "int8": {"quantize": "int8"}, "onnxruntime": {"executor": "onnxruntime"}}
    models = {name: load(proto, threads=1, **options) for name, options in ways.items()}
    options = {"max_new_tokens": steps, "eos_token_id": None, "seed": 1, "workers": 1}
    times = least(3, *(lambda m=m: decode(m, [[1]], Sample(), **options) for m in models.values()))
    return {name: steps / seconds for name, seconds in zip(models, times, strict=True)}


def workers(counts=(1, 2, 4), jobs=64, tokens=300):
    """Tokens a second of small jobs (batches of 8) in several workers."""
    call = {"max_new_tokens": tokens, "eos_token_id": None, "seed": 1, "batch_size": 8}
    found = {}
    for name, options in {"float32": {}, "int8": {"quantize": "int8"}}.items():
        model = network(128, 2, 256, executor="native", **options)
        run = partial(decode, model, [[i] for i in range(jobs)], Sample(), **call)
        times = least(5, *(partial(run, workers=n) for n in counts))
        found[name] = {n: jobs * tokens / seconds for n, seconds in zip(counts, times, strict=True)}
    return found


def many():
    """Microseconds a token of sequences of 20 to 120 tokens from LSTM 3x512, in batches of 128: float32, int8, torch's loop.

    BENCH_SEQUENCES says how many; see bench/test_many.py, whose workload and loop this is.
    """
    import torch

    from bench import test_many
    from bench.networks import make

    torch.set_num_threads(1)
    net, data = make(512, 3, 64, end=test_many.EOS)
    models = [load(data, threads=1, executor="native", **options) for options in ({}, {"quantize": "int8"})]
    options = {
        "max_new_tokens": test_many.LONGEST, "min_new_tokens": test_many.SHORTEST, "eos_token_id": test_many.EOS,
        "batch_size": test_many.BATCH, "seed": 1, "workers": 1,
    }  # fmt: skip
    found = []
    for model in models:
        start = time.perf_counter()
        out = decode(model, [[1]] * test_many.SEQUENCES, Sample(), **options)
        found.append((time.perf_counter() - start) / sum(len(h.token_logprobs) for h in out) * 1e6)
    start = time.perf_counter()
    tokens = test_many.torch_many(net)
    return [*found, (time.perf_counter() - start) / tokens * 1e6]


def main():
    """Print the figures."""
    print(f"decoding {decoding.__version__}, NumPy {np.__version__}")
    print("LPCNet-like GRU 384 -> 256, steps a second:", {name: round(rate) for name, rate in audio().items()})
    print("workers, tokens a second:", {kind: {n: round(r) for n, r in own.items()} for kind, own in workers().items()})
    print("many sequences, µs a token, float32, int8, torch:", [round(x, 1) for x in many()])


if __name__ == "__main__":
    main()
