"""What a constraint costs: a job that obeys a regular expression beside the same job without one, and beside a callback.

    python -m bench.test_constraints         # prints the tables of docs/constraints.md
    pytest bench/test_constraints.py         # the aims as assertions

What forced tokens gain: outputs with long fixed parts, read in runs and by choosing each token.

What is compared runs in turn, and medians are taken. The callback is what a caller would write: Python code that keeps a
matcher of llguidance for each row and edits the logits by NumPy.
"""

from __future__ import annotations

import llguidance
import llguidance.numpy as masks
import numpy as np
import pytest

from bench.test_engine import alternate
from decoding import Choices, JSONSchema, Regex, Sample, decode, load
from decoding.engine.search.sampling import SamplingSearch
from tests.helpers import build

# Hidden units, layers, vocabulary, new tokens, and the most that a constrained job may take of the plain one's time.
NETWORKS = {
    "LSTM 2x128, vocabulary 256": (128, 2, 256, 100, 1.3),
    "LSTM 2x640, vocabulary 10,000": (640, 2, 10_000, 20, 1.2),
}
ROWS = 64
PATTERN = r"([a-z]{1,12}[ ,]){300}"

# Outputs of which nearly every token is forced: 107 and 44 tokens.
FIXED = {
    "a record of three fields": JSONSchema(
        {
            "type": "object",
            "properties": {
                "temperature_in_degrees_celsius": {"type": "integer", "minimum": 0, "maximum": 99},
                "relative_humidity_in_percent": {"enum": ["low", "high"]},
                "observation_was_verified": {"type": "boolean"},
            },
            "required": ["temperature_in_degrees_celsius", "relative_humidity_in_percent", "observation_was_verified"],
            "additionalProperties": False,
            "x-guidance": {"whitespace_flexible": False},
        }
    ),
    "one of two sentences": Choices(
        ["The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs, please."]
    ),
}


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


def forced_times(executor, constraint, rows, rounds=15):
    """Seconds of a job whose forced tokens are read in runs, and of the same job with a choice at every step."""
    hidden, letters = 128, [chr(i) for i in range(32, 127)]
    net = build.recurrent("LSTM", exposed=True, hidden=hidden, layers=2, vocab=len(letters), seed=1, scale=hidden**-0.5)
    model = load(net, tokenizer=letters, threads=1, executor=executor)

    def job():
        options = {"max_new_tokens": 200, "seed": 1, "workers": 1, "batch_size": rows}
        return decode(model, ["a"] * rows, Sample(), processors=[constraint], **options)

    def stepped():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SamplingSearch, "_read_forced", lambda self: None)
            return job()

    assert job().tokens == stepped().tokens
    return alternate(rounds, runs=job, steps=stepped)


@pytest.mark.parametrize("executor", ["native", "onnxruntime"])
@pytest.mark.parametrize("name", FIXED)
def test_forced_tokens_are_cheaper_than_chosen_ones(executor, name):
    found = forced_times(executor, FIXED[name], 1)
    assert found["runs"] <= 0.8 * found["steps"]


if __name__ == "__main__":
    print("| network, 64 rows | plain, µs a step | `Regex` | Python callback |\n| --- | ---: | ---: | ---: |")
    for name in NETWORKS:
        found = times(name)
        plain = found["plain"]
        print(
            f"| {name} | {plain / NETWORKS[name][3] * 1e6:.0f} | {found['regex'] / plain:.2f} times | {found['callback'] / plain:.2f} times |"
        )
    print("| output, network | rows | forced tokens chosen, ms | read in runs, ms |\n| --- | ---: | ---: | ---: |")
    for name, constraint in FIXED.items():
        for executor in ("native", "onnxruntime"):
            for rows in (1, 8, 32):
                found = forced_times(executor, constraint, rows)
                print(f"| {name}, {executor} | {rows} | {found['steps'] * 1e3:.1f} | {found['runs'] * 1e3:.1f} |")
