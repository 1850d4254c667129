"""Whether a native step gives a row the same tokens and log-probabilities in every batch: python -m bench.native_bits.

1,014,000 tokens for each kind of weights and each strategy: 130 rows of 60 tokens at every batch size from 1 to 130, with
1 to 4 workers, in whole steps without Python; beside them the same rows in one batch, whose steps are taken one by one.
"""

from __future__ import annotations

import itertools

import numpy as np

from decoding import Greedy, Sample, decode, load
from tests.helpers import build

ROWS, TOKENS = 130, 60
STRATEGIES = {"sample": Sample(), "sample, top_k": Sample(top_k=20, temperature=1.3), "greedy": Greedy()}


def outputs(model, strategy, **options):
    """Ids and log-probabilities of the tokens of all rows, [rows, tokens]."""
    seed = {} if isinstance(strategy, Greedy) else {"seed": 1}
    prompts = [[1 + row % 7, row % 5] for row in range(ROWS)]
    found = decode(model, prompts, strategy, max_new_tokens=TOKENS, eos_token_id=None, **options, **seed)
    return np.array([h.ids for h in found]), np.array([h.token_logprobs for h in found])


def main() -> None:
    """Print how many tokens differ."""
    proto = build.recurrent("LSTM", hidden=64, layers=2, vocab=300, scale=0.3)
    for quantize, (name, strategy) in itertools.product((None, "int8"), STRATEGIES.items()):
        model = load(proto, executor="native", quantize=quantize)
        # logprobs= needs the logits of every step in Python
        expected = outputs(model, strategy, batch_size=ROWS, workers=1, logprobs=1)
        differ = taken = 0
        for size in range(1, ROWS + 1):
            ids, logprobs = outputs(model, strategy, batch_size=size, workers=1 + size % 4)
            differ += int(((ids != expected[0]) | (logprobs.view(np.int32) != expected[1].view(np.int32))).sum())
            taken += ids.size
        print(f"{quantize or 'float32'}, {name}: {differ} of {taken:,} tokens differ", flush=True)


if __name__ == "__main__":
    main()
