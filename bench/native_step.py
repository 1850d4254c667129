"""One step with each executor, for the table of docs/benchmarks/native.md: python -m bench.native_step [rounds [network]].

`decode()` end to end with sampling, over the bare `run_with_iobinding` loop of the exported file with no choice of tokens.
The rows of "beam 5" are the beams of one sentence.
One thread each. The runs alternate, so that what else the machine does meets all of them; the least and the median of each.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import onnxruntime as ort

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
    for cell, hidden, layers, vocab, batch, steps, strategy in NETWORKS if only is None else [NETWORKS[only]]:
        options = {"hidden": hidden, "layers": layers, "vocab": vocab, "scale": 1 / np.sqrt(hidden)}
        proto = build.recurrent(cell, exposed=True, **options)
        peers = {"bare": bare(proto, cell, hidden, layers, vocab, batch, steps)}
        for name, how in {
            "onnxruntime": {}, "native": {"executor": "native"}, "onnxruntime int8": {"quantize": "int8"},
            "native int8": {"executor": "native", "quantize": "int8"},
        }.items():  # fmt: skip
            peers[name] = decoded(load(proto, threads=1, **how), batch, steps, strategy)
        times = {name: [] for name in peers}
        for _ in range(rounds):
            for name, run in peers.items():
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) / steps * 1e6)
        floor = min(times["bare"])
        cells = [f"{min(t):.1f} ({statistics.median(t):.1f}), {min(t) / floor:.2f}x" for t in times.values()]
        beams = ", beam 5" if isinstance(strategy, Beam) else ""
        print(f"| {cell} {layers}x{hidden} V{vocab}{beams} | {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
