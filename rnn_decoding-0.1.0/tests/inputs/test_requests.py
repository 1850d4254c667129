"""Requests of prompts, of iterables and of given sequences."""

import numpy as np
import pytest

from decoding import Beam, Greedy, OptionError, Sample, decode, decode_iter, load, rollout, score
from tests.helpers import build


@pytest.fixture(scope="module")
def lstm():
    return load(build.recurrent("LSTM", layers=2, scale=0.7, seed=3))


def test_temperature_may_differ_from_prompt_to_prompt(lstm):
    both = decode(lstm, [[1], [1]], Sample(temperature=[0.2, 2.0]), max_new_tokens=20, seed=4)
    assert both[0].tokens == decode(lstm, [[1], [1]], Sample(temperature=0.2), max_new_tokens=20, seed=4)[0].tokens
    assert both[1].tokens == decode(lstm, [[1], [1]], Sample(temperature=2.0), max_new_tokens=20, seed=4)[1].tokens


def test_a_bad_prompt_in_an_iterator_is_named_by_its_number(lstm):
    with pytest.raises(OptionError, match=r"prompts\[2\].*id 99"):
        list(decode_iter(lstm, iter([[1], [2], [99]]), max_new_tokens=2))


def test_nothing_to_score(lstm):
    with pytest.raises(OptionError, match="nothing to score"):
        score(lstm, None)


@pytest.mark.parametrize(
    ("prompts", "strategy", "message"),
    [
        ("text", Greedy(), r"prompts='text': expected an iterable of prompts"),
        (3, Greedy(), r"prompts=3: expected an iterable of prompts"),
        (
            [[1]],
            Sample(temperature=[1.0]),
            r"Sample\(temperature=array\): the prompts of an iterable cannot be counted",
        ),
    ],
)
def test_wrong_iterables(lstm, prompts, strategy, message):
    with pytest.raises(OptionError, match=message):
        decode_iter(lstm, prompts, strategy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: expected a whole number of at least 1"),
        ({"sequences": None}, "sequences is None"),
        ({"sequences": [[1, 2], []]}, r"sequences\[1\] is empty"),
        ({"sequences": [[1, 11]]}, r"sequences\[0\]: id 11 at position 1 is out of range"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"pad_token_id": "x"}, "pad_token_id='x'"),
        ({"strategy": Beam()}, "completions are drawn one by one"),
        ({"strategy": Sample(replacement=False)}, "completions are drawn one by one"),
        ({"strategy": Greedy(), "n": 2}, "n=2: Greedy"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_wrong_completions(lstm, options, message):
    given = {"model": lstm, "sequences": [[1, 2, 3]], "reward": lambda ids: np.zeros(len(ids)), "n": 1, **options}
    with pytest.raises(OptionError, match=message):
        rollout(given.pop("model"), given.pop("sequences"), given.pop("reward"), **given)
