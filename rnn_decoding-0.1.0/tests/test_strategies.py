"""decoding/strategies.py."""

import math

import numpy as np
import pytest

from decoding import Beam, Greedy, OptionError, Sample, TopN, decode, load
from tests.helpers import build


def assert_tempered(tokens, logits, temperature):
    """The frequencies of tokens are the softmax of logits / temperature, within 5.5 standard errors."""
    p = np.exp((np.asarray(logits) - max(logits)) / temperature)
    p /= p.sum()
    found = np.bincount(np.ravel(tokens), minlength=len(logits)) / np.size(tokens)
    assert (abs(found - p) <= 5.5 * np.sqrt(p * (1 - p) / np.size(tokens)) + 1e-12).all(), (found, p)


@pytest.mark.parametrize("temperature", [1e-3, 0.8, 1, 100.0, [0.5, 2.0]])
def test_a_temperature_divides_the_logits_before_the_draw(temperature):
    """A list has a temperature for each prompt."""
    logits = [2.0, 0.5, 1.0, -1.0]
    model = load(build.unigram(logits))
    options = {"max_new_tokens": 1, "num_return_sequences": 4000, "eos_token_id": None, "seed": 1}
    out = decode(model, [[0], [0]], Sample(temperature=temperature), **options)
    for drawn, own in zip(out.by_prompt(), np.broadcast_to(temperature, 2), strict=True):
        assert_tempered([h.tokens for h in drawn], logits, own)


def test_temperature_zero_points_to_greedy():
    with pytest.raises(OptionError, match=r"temperature=0.*use Greedy\(\)"):
        Sample(temperature=0)


@pytest.mark.parametrize(
    "temperature", [-1, -0.5, math.nan, math.inf, 1e-60, "hot", None, [], [1.0, math.nan], [[1.0]]]
)
def test_other_temperatures_are_refused_when_the_strategy_is_made(temperature):
    with pytest.raises(OptionError, match=r"temperature.*expected"):
        Sample(temperature=temperature)


def test_strategies_are_frozen():
    with pytest.raises(AttributeError):
        Sample().temperature = 2.0


def test_beams_and_distinct_samples_are_searched_together():
    strategies = [Greedy(), TopN(2), Sample(), Sample(replacement=False), Beam()]
    assert [s.searches_together for s in strategies] == [False, False, False, True, True]
