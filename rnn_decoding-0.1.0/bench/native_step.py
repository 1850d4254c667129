"""One step with each executor, for the table of docs/benchmarks/native.md: python -m bench.native_step [rounds [network]].

`decode()` end to end with sampling, over the bare `run_with_iobinding` loop of the exported file with no choice of tokens.
The rows of "beam 5" are the beams of one sentence.
One thread each. The runs alternate, so that what else the machine does meets all of them; the least and the median of each.
The limits are the processor's own, in the same turns: the greater of the time in which it reads the weights and of the
operations over the peak of products of registers (bench/native_prototype.py, AVX-512 with VNNI alone).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial

import numpy as np
import onnxruntime as ort

from bench.native_prototype import Case, Reads, peak
from bench.native_prototype import build as build_library
from decoding import Beam, Sample, decode, load
from decoding.kernels import instruction_set
from decoding.strategies import Strategy
from tests.helpers import build

# cell, hidden, layers, vocabulary, batch, steps of a run, strategy
NETWORKS: list[tuple[str, int, int, int, int, int, Strategy]] = [
    ("LSTM", 128, 2, 256, 1, 400, Sample()),
    ("LSTM", 512, 3, 64, 1, 100, Sample()),
    ("LSTM", 650, 2, 10000, 1, 60, Sample()),
    ("GRU", 256, 1, 256, 1, 400, Sample()),
    ("LSTM", 650, 2, 10000, 5, 60, Beam(num_beams=5)),
    ("LSTM", 128, 2, 256, 64, 60, Sample()),
    ("LSTM", 32, 1, 5000, 64, 100, Sample()),
    ("LSTM", 512, 3, 64, 128, 12, Sample()),
]


def bare(proto, cell, hidden, layers, vocab, batch, steps):
    """A loop over two sets of bound buffers, without reading the logits."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [f"{s}{i}" for i in range(layers) for s in ("hc" if cell == "LSTM" else "h")]
    sides = [{n: np.zeros((1, batch, hidden), np.float32) for n in names} for _ in range(2)]
    tokens, logits = np.ones((batch, 1), np.int64), np.zeros((batch, 1, vocab), np.float32)
    bound = []
    for a, b in ((0, 1), (1, 0)):
        binding = session.io_binding()
        binding.bind_input("tokens", "cpu", 0, np.int64, tokens.shape, tokens.ctypes.data)
        binding.bind_output(session.get_outputs()[0].name, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for n in names:
            binding.bind_input(n, "cpu", 0, np.float32, sides[a][n].shape, sides[a][n].ctypes.data)
            binding.bind_output(f"{n}_out", "cpu", 0, np.float32, sides[b][n].shape, sides[b][n].ctypes.data)
        bound.append(binding)

    def run(keep=(tokens, logits, sides)):
        for step in range(steps):
            session.run_with_iobinding(bound[step % 2])

    return run


def decoded(model, batch, steps, strategy):
    """A call that takes `steps` steps of `batch` rows."""
    seed, prompts = ({}, 1) if isinstance(strategy, Beam) else ({"seed": 1}, batch)
    return lambda: decode(model, [[1]] * prompts, strategy, max_new_tokens=steps, eos_token_id=None, batch_size=batch,
                          workers=1, **seed)  # fmt: skip


def main(rounds: int = 9, only: int | None = None) -> None:
    """Print the table, or one row of it."""
    print(
        f"onnxruntime {ort.__version__}, instruction set {instruction_set()}, {rounds} rounds; µs a step: least (median)"
    )
    with tempfile.TemporaryDirectory() as folder:
        library = build_library(folder)
    assert library.dec_use_isa(None) == 0
    peaks = {"float32": peak(library, 0), "int8": peak(library, 1)}
    print(", ".join(f"{name}: {rate / 1e3:.0f} G multiply-adds a second" for name, rate in peaks.items()))
    for cell, hidden, layers, vocab, batch, steps, strategy in NETWORKS if only is None else [NETWORKS[only]]:
        case = Case("", cell, layers, hidden, vocab, batch)
        reads = {"float32": Reads(library, 4 * case.products), "int8": Reads(library, case.products)}
        options = {"hidden": hidden, "layers": layers, "vocab": vocab, "scale": 1 / np.sqrt(hidden)}
        proto = build.recurrent(cell, exposed=True, **options)
        peers = {"bare": bare(proto, cell, hidden, layers, vocab, batch, steps)}
        for name, how in {
            "onnxruntime": {"executor": "onnxruntime"}, "native": {"executor": "native"}, "onnxruntime int8": {"executor": "onnxruntime", "quantize": "int8"},
            "native int8": {"executor": "native", "quantize": "int8"},
        }.items():  # fmt: skip
            peers[name] = decoded(load(proto, threads=1, **how), batch, steps, strategy)
        peers |= {f"read {name}": partial(read.steps, steps) for name, read in reads.items()}
        times = {name: [] for name in peers}
        for _ in range(rounds):
            for name, run in peers.items():
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) / steps * 1e6)
        floor = min(times["bare"])
        took = {name: min(t) for name, t in times.items()}
        limits = {name: max(took.pop(f"read {name}"), case.products * batch / rate) for name, rate in peaks.items()}
        cells = [f"{t:.1f} ({statistics.median(times[name]):.1f}), {t / floor:.2f}x" for name, t in took.items()]
        cells += [f"limit {name} {limit:.1f}" for name, limit in limits.items()]
        beams = ", beam 5" if isinstance(strategy, Beam) else ""
        print(f"| {cell} {layers}x{hidden} V{vocab}{beams} | {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
