"""Options of a call that are refused, alone or together."""

import numpy as np
import pytest

from decoding import (
    AllowedTokens,
    Beam,
    ForcedTokens,
    LogitBias,
    OptionError,
    RepetitionPenalty,
    Sample,
    SuppressTokens,
    decode,
    load,
    stream,
)
from tests.helpers import build


@pytest.fixture(scope="module")
def lstm():
    return load(build.recurrent("LSTM", layers=2, scale=0.7, seed=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, r"max_new_tokens=0: expected a whole number of at least 1"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5: expected a whole number"),
        ({"num_return_sequences": 0}, r"num_return_sequences=0: expected a whole number of at least 1"),
        ({"num_return_sequences": 2}, r"num_return_sequences=2: Greedy\(\) has one output"),
        ({"batch_size": -1}, r"batch_size=-1"),
        ({"batch_size": True}, r"batch_size=True"),
        ({"seed": -1}, r"seed=-1: expected a whole number of at least 0"),
        ({"seed": 2**64}, r"seed=\d+: expected a whole number below 2\*\*64"),
        ({"eos_token_id": 11}, r"eos_token_id=11: the model's ids go from 0 to 10"),
        ({"eos_token_id": "x"}, r"eos_token_id='x'"),
        ({"strategy": "greedy"}, r"strategy='greedy': expected a strategy object"),
        ({"strategy": Sample(temperature=[1.0, 2.0, 3.0])}, r"one for each of the 2 prompts"),
    ],
)
def test_bad_options(lstm, options, message):
    with pytest.raises(OptionError, match=message):
        decode(lstm, [[1], [2]], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"min_new_tokens=9: more than max_new_tokens=8"),
        ({"logprobs": 12}, r"logprobs=12: the model has only 11 tokens"),
        ({"stop": [[]]}, r"stop: an empty stop sequence"),
        ({"stop": "x"}, r"stop='x': .* has no vocabulary; give stops as ids"),
        ({"stop": [[11]]}, r"stop: id 11 at position 0 is out of range"),
        (
            {"processors": [print, SuppressTokens([1, 11])]},
            r"processors\[1\] \(SuppressTokens\): id 11 at position 1 is",
        ),
        (
            {"processors": [AllowedTokens([12])]},
            r"processors\[0\] \(AllowedTokens\): id 12 at position 0 is out of range",
        ),
        ({"processors": [LogitBias({13: 1.0})]}, r"processors\[0\] \(LogitBias\): id 13 at position 0 is out of range"),
        ({"processors": [ForcedTokens({2: 14})]}, r"processors\[0\] \(ForcedTokens\): id 14 at position 0 is out of"),
        ({"stop": 3.5}, r"stop=3.5: expected a string, or a list"),
        ({"processors": RepetitionPenalty(2.0)}, r"processors=.*expected a list of callables"),
        ({"processors": [3]}, r"processors: 3 is not a callable"),
        ({"processors": [RepetitionPenalty]}, r"RepetitionPenalty is a class; pass an object"),
        (
            {"teacher": [[1]], "teacher_ratio": 0.5},
            r"teacher: found 1 sequences; expected one id sequence for each of the 2 prompts",
        ),
        ({"teacher": 3, "teacher_ratio": 0.5}, r"teacher: found int"),
        ({"teacher": [[1], [99]], "teacher_ratio": 0.5}, r"teacher\[1\]: id 99"),
        ({"teacher_ratio": 0.5}, r"teacher_ratio=0.5: there is no teacher"),
        ({"teacher": [[1], [1]], "teacher_ratio": 1.5}, r"teacher_ratio=1.5: expected a probability"),
        ({"strategy": Beam(), "teacher": [[1], [1]], "teacher_ratio": 0.5}, r"teacher: not with Beam"),
        ({"strategy": Beam(), "logprobs": 2}, r"logprobs=2: not with Beam"),
        ({"workers": 0}, r"workers=0: expected a whole number of at least 1"),
    ],
)
def test_options_that_cannot_be(lstm, options, message):
    strategy = options.pop("strategy", Sample())
    with pytest.raises(OptionError, match=message):
        decode(lstm, [[1], [2]], strategy, **options)


def test_an_option_that_there_is_not(lstm):
    with pytest.raises(OptionError, match=r"stream\(\) has no option 'workers'; it has max_new_tokens, min_new_tokens"):
        stream(lstm, [1], workers=2)


def test_an_eos_that_converts_to_no_ids_is_named():
    class Odd:
        def __array__(self, dtype=None, copy=None):
            return np.array([{}, None], object)

    with pytest.raises(OptionError, match="eos_token_id"):
        decode(load(build.recurrent()), [1], eos_token_id=Odd(), max_new_tokens=1)
