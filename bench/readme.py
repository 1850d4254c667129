"""The README's figure: tokens a second of decode() beside the loops that people write, in one thread.

    OMP_NUM_THREADS=1 python -m bench.readme

- loop: `session.run` of onnxruntime for each step, then NumPy's softmax and `multinomial`, row by row.
- torch: the network's own eager loop with `torch.multinomial`.

All sample at temperature 0.8 from the same LSTM. They run in turn; medians over the rounds.
"""

from __future__ import annotations

import statistics
import time

import torch

import decoding
from bench.networks import make
from bench.test_decode import TEMPERATURE, numpy_loop, torch_loop

# name: hidden, layers, vocabulary
NETWORKS = {"LSTM 2×128, 256 tokens": (128, 2, 256), "LSTM 3×512, 64 tokens": (512, 3, 64)}
ROWS = (1, 64)
STEPS, ROUNDS = 100, 5


def loops(net, data, rows):
    """Return functions that decode `rows` sequences of STEPS tokens, by name."""
    models = {None: decoding.load(data), "int8": decoding.load(data, quantize="int8")}

    def decode(model):
        strategy = decoding.Sample(TEMPERATURE)
        decoding.decode(model, [[1]] * rows, strategy, max_new_tokens=STEPS, seed=1, workers=1)

    return {
        "loop": numpy_loop(net, data, rows, STEPS),
        "torch": torch_loop(net, rows, STEPS),
        "decode()": lambda: decode(models[None]),
        "decode(), int8": lambda: decode(models["int8"]),
    }


def tokens_a_second(functions, rows):
    """Return the median speed of each function."""
    times = {name: [] for name in functions}
    for _ in range(ROUNDS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: rows * STEPS / statistics.median(own[1:]) for name, own in times.items()}  # the first warms up


def main():
    """Print the table."""
    torch.set_num_threads(1)
    print("| network | sequences | onnxruntime in a loop | torch | `decode()` | `decode()`, int8 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (hidden, layers, vocab) in NETWORKS.items():
        net, data = make(hidden, layers, vocab)
        for rows in ROWS:
            found = tokens_a_second(loops(net, data, rows), rows)
            cells = [f"{value:,.0f} ({value / found['loop']:.1f}×)" for value in list(found.values())[1:]]
            print(f"| {name} | {rows} | {found['loop']:,.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
