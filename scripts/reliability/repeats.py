"""Make the same call again and again, and see that its tokens and log-probabilities have the same bits.

    python scripts/reliability/repeats.py --long

With onnxruntime the batch size and the number of workers stay the same, for the last bits of its logits depend on them. With the native
step they change at each repeat: batches of 1 to 130 rows, 1 to 4 workers.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from decoding import Beam, Greedy, Sample, TopN, decode, load
from scripts.reliability.figure import Figure, main
from tests.helpers import build

ROWS, TOKENS = 40, 20
STRATEGIES = {
    "greedy": Greedy(),
    "sample": Sample(),
    "filters": Sample(temperature=0.8, top_k=20, top_p=0.95),
    "top_n": TopN(4),
    "beam": Beam(3),
    "distinct": Sample(replacement=False),
}


def outputs(model: Any, strategy: Any, batch_size: int, workers: int) -> list[tuple[Any, bytes]]:
    """Ids and the bytes of the log-probabilities of every output."""
    seed = {} if isinstance(strategy, Greedy | Beam) else {"seed": 7}
    prompts = [[1 + row % 7, row % 5][: 1 + row % 2] for row in range(ROWS)]
    found = decode(
        model, prompts, strategy, max_new_tokens=TOKENS, eos_token_id=3, batch_size=batch_size, workers=workers, **seed
    )
    return [(tuple(h.ids), np.asarray(h.token_logprobs).tobytes()) for h in found]


def measure(repeats: int, jobs: int) -> Figure:
    """Make every call that often; `jobs` has no part in it."""
    del jobs
    figure, rng = Figure(), random.Random(0)
    proto = build.recurrent("LSTM", hidden=24, layers=2, vocab=60, scale=0.3)
    for executor, quantize in (("onnxruntime", None), ("native", None), ("native", "int8")):
        model = load(proto, executor=executor, quantize=quantize, threads=1)
        for name, strategy in STRATEGIES.items():
            expected, other = outputs(model, strategy, ROWS, 1), 0
            for _ in range(repeats):
                sizes = (rng.randint(1, 130), rng.randint(1, 4)) if executor == "native" else (ROWS, 1)
                other += outputs(model, strategy, *sizes) != expected
            kind = f"{executor}{' int8' * bool(quantize)}, {name}"
            figure.measured.append(
                f"{kind}: {other} of {repeats} repeats differ, {ROWS} outputs of up to {TOKENS} tokens each"
            )
            figure.expect(not other, f"{kind}: {other} repeats differ")
    return figure


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=10, long=1000, counted="repeats of each call"))
