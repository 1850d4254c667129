"""What a constraint costs: a job that obeys a regular expression beside the same job without one, and beside a callback.

    python -m bench.test_constraints         # prints the table of docs/constraints.md
    pytest bench/test_constraints.py         # the aims as assertions

What is compared runs in turn, and medians are taken. The callback is what a caller would write: Python code that keeps a
matcher of llguidance for each row and edits the logits by NumPy.
"""

from __future__ import annotations

import llguidance
import llguidance.numpy as masks
import numpy as np
import pytest

from bench.test_engine import alternate
from decoding import Regex, Sample, decode, load
from tests.helpers import build

# Hidden units, layers, vocabulary, new tokens, and the most that a constrained job may take of the plain one's time.
NETWORKS = {
    "LSTM 2x128, vocabulary 256": (128, 2, 256, 100, 1.3),
    "LSTM 2x640, vocabulary 10,000": (640, 2, 10_000, 20, 1.2),
}
ROWS = 64
PATTERN = r"([a-z]{1,12}[ ,]){300}"


def vocabulary(size):
    """The characters of Latin-1, then words of a few letters, half of them after a space."""
    rng, tokens = np.random.default_rng(0), dict.fromkeys(chr(i) for i in range(256))
    while len(tokens) < size:
        tokens[
            " " * int(rng.integers(2)) + "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 7)))
        ] = None
    return list(tokens)


class Callback:
    """The same masks from a Python callback, for rows that start together and have prompts of one token."""

    def __init__(self, tokens):
        class Tokens:
            bos_token_id, eos_token_id, special_token_ids = None, len(tokens), ()

            def __call__(self, text):
                return []

        Tokens.tokens = [*(t.encode() for t in tokens), b""]
        own = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokens()), slices=[])
        grammar = f'start: /{llguidance.regex_to_lark(PATTERN, "")}/\n%llguidance {{"no_forcing": true}}\n'
        self._start, self._size = llguidance.LLMatcher(own, grammar), len(tokens) + 1

    def __call__(self, history, logits):
        if not len(history.outputs[0]):
            self._rows = [self._start.deep_copy() for _ in history.outputs]
        else:
            for row, output in zip(self._rows, history.outputs, strict=True):
                row.consume_token(int(output[-1]))
        bits = masks.allocate_token_bitmask(len(self._rows), self._size)
        for i, row in enumerate(self._rows):
            masks.fill_next_token_bitmask(row, bits, i)
        masks.apply_token_bitmask_inplace(logits, bits)


def times(name, rounds=7):
    """Seconds of the job alone, with a constraint, and with the callback."""
    hidden, layers, vocab, new, _ = NETWORKS[name]
    tokens = vocabulary(vocab)
    net = build.recurrent("LSTM", exposed=True, hidden=hidden, layers=layers, vocab=vocab, seed=1, scale=hidden**-0.5)
    model = load(net, tokenizer=tokens, threads=1)
    regex, callback = Regex(PATTERN), Callback(tokens)

    def job(*processors):
        options = {"max_new_tokens": new, "eos_token_id": None, "seed": 1, "workers": 1, "batch_size": ROWS}
        return decode(model, [[65]] * ROWS, Sample(), processors=processors, **options)

    assert job(regex).tokens == job(callback).tokens
    return alternate(rounds, plain=job, regex=lambda: job(regex), callback=lambda: job(callback))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_regular_expression_costs_little(name):
    found = times(name)
    assert found["regex"] <= NETWORKS[name][-1] * found["plain"]


if __name__ == "__main__":
    print("| network, 64 rows | plain, µs a step | `Regex` | Python callback |\n| --- | ---: | ---: | ---: |")
    for name in NETWORKS:
        found = times(name)
        plain = found["plain"]
        print(
            f"| {name} | {plain / NETWORKS[name][3] * 1e6:.0f} | {found['regex'] / plain:.2f} times | {found['callback'] / plain:.2f} times |"
        )
