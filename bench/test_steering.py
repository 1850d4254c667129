"""What it costs to steer a model: ensembles beside their members.

    python -m bench.test_steering            # prints the tables of docs/benchmarks/steering.md
    taskset -c 0 python -m bench.test_steering     # on one core, where members take their steps one after the other
    pytest bench/test_steering.py            # the aims as assertions

Whatever is compared runs in turn, and medians are taken, so that what else the machine does meets both sides.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.test_engine import alternate
from decoding import Beam, Ensemble, Guidance, Sample, decode, load
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel

# Hidden units, layers, vocabulary, rows, new tokens.
NETWORKS = {
    "LSTM 2x128, vocabulary 256, batch 1": (128, 2, 256, 1, 400),
    "LSTM 2x128, vocabulary 256, batch 64": (128, 2, 256, 64, 100),
    "LSTM 2x640, vocabulary 10,000, batch 1": (640, 2, 10_000, 1, 60),
    "LSTM 2x640, vocabulary 10,000, batch 64": (640, 2, 10_000, 64, 20),
    "LSTM 3x512, vocabulary 64, batch 128": (512, 3, 64, 128, 20),
    "LSTM 1x32, vocabulary 5000, batch 64": (32, 1, 5000, 64, 60),
}
# The strategy, and how members are combined.
WAYS = {
    "Sample()": (Sample(), "logprobs"),
    'Sample(), combine="probs"': (Sample(), "probs"),
    "Beam(4)": (Beam(4), "logprobs"),
}


# -- ensembles ----------------------------------------------------------------------------------------------------


def members(hidden, layers, vocab):
    """Two networks of one shape."""
    return [
        load(build.recurrent("LSTM", exposed=True, hidden=hidden, layers=layers, vocab=vocab, seed=seed, scale=1 / np.sqrt(hidden)), threads=1)
        for seed in (1, 2)
    ]  # fmt: skip


def ensemble_times(name, strategy, rounds=5, combine="logprobs"):
    """Seconds of decoding with each of two members alone, added up, and with both together."""
    hidden, layers, vocab, rows, tokens = NETWORKS[name]
    one, other = members(hidden, layers, vocab)
    both = Ensemble([one, other], combine=combine)
    prompts = [[row % vocab] for row in range(max(1, rows // 4) if isinstance(strategy, Beam) else rows)]
    options = {"max_new_tokens": tokens, "eos_token_id": None, "seed": 1, "workers": 1, "batch_size": rows}
    return alternate(
        rounds,
        members=lambda: [decode(model, prompts, strategy, **options) for model in (one, other)],
        ensemble=lambda: decode(both, prompts, strategy, **options),
    )


def guidance_times(rounds=5):
    """Seconds of decoding with an attention model of onnxruntime alone, twice, and with guidance."""
    net = AdditiveModel(0, hidden=64, vocab=256, metadata={"decoding.bos": 1})
    model = load(net.decoder(), encoder=net.encoder(), threads=1)
    sources = [[3 + row % 8] * 12 for row in range(16)]
    options = {"max_new_tokens": 60, "eos_token_id": None, "seed": 1, "workers": 1}
    guided = Guidance(model, 2)
    return alternate(
        rounds,
        members=lambda: [decode(model, sources, Sample(), **options) for _ in range(2)],
        ensemble=lambda: decode(guided, sources, Sample(), **options),
    )


@pytest.mark.parametrize(("strategy", "combine"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_ensemble_costs_little_more_than_its_members(name, strategy, combine):
    """The aim of issue 19: at most 1.1 times their sum. One case misses it: see the page."""
    if combine == "probs" and "vocabulary 5000" in name:
        pytest.xfail("an exponential more and a logarithm for each token, which 32 units do not hide")
    found = ensemble_times(name, strategy, combine=combine)
    assert found["ensemble"] <= 1.1 * found["members"]


def report():
    """Print the table."""
    print("| network | strategy | members, added up | ensemble | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for name in NETWORKS:
        for shown, (strategy, combine) in WAYS.items():
            tokens = NETWORKS[name][4]
            found = ensemble_times(name, strategy, combine=combine)
            each = {key: f"{1e6 * value / tokens:,.0f} us" for key, value in found.items()}
            print(f"| {name} | {shown} | {each['members']} | {each['ensemble']} | {found['ensemble'] / found['members']:.2f} |", flush=True)  # fmt: skip
    found = guidance_times()
    print(f"| attention, batch 16, `Guidance` | Sample() | {1e6 * found['members'] / 60:,.0f} us | {1e6 * found['ensemble'] / 60:,.0f} us | {found['ensemble'] / found['members']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    report()
