"""Prompts in every form, and those that are refused."""

import numpy as np
import pytest

from decoding import OptionError, decode, load
from tests.helpers import build


@pytest.fixture(scope="module")
def lstm():
    return load(build.recurrent("LSTM", layers=2, scale=0.7, seed=3))


def test_prompts_may_be_given_in_every_form(lstm):
    expected = decode(lstm, [[1, 2], [3, 4]], max_new_tokens=4).tokens
    assert decode(lstm, np.array([[1, 2], [3, 4]]), max_new_tokens=4).tokens == expected
    assert decode(lstm, [np.array([1, 2], np.int32), (3, 4)], max_new_tokens=4).tokens == expected
    assert decode(lstm, [1, 2], max_new_tokens=4).tokens == expected[:1]


def test_text_prompts_start_with_bos_and_ids_are_taken_as_they_are():
    vocab = list("<abcdefghij")
    model = load(build.recurrent(seed=1, metadata={"decoding.vocab": vocab, "decoding.bos": 0}))
    as_text = decode(model, "ab", max_new_tokens=5)
    assert as_text.tokens == decode(model, [0, 1, 2], max_new_tokens=5).tokens
    assert as_text[0].text == "".join(vocab[t] for t in as_text[0].tokens)
    assert decode(model, ["", "ab"], max_new_tokens=5).tokens[0] == decode(model, None, max_new_tokens=5).tokens[0]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([11], r"prompts.*id 11 at position 0 is out of range; the model's ids go from 0 to 10"),
        ([[1], [2, -1]], r"prompts\[1\]: id -1 at position 1 is out of range"),
        ([[1], []], r"prompts\[1\] is empty and .* has no BOS.*decoding.bos"),
        ([], r"prompts is empty; .*None starts from BOS"),
        (None, r"prompts\[0\] is empty and .* has no BOS"),
        ("ROMEO", r"has no vocabulary, so a text cannot be read; pass ids, or load\(\.\.\., tokenizer=\.\.\.\)"),
        ([1.5, 2.0], r"prompts: float64 of shape \[2\]; expected whole-number ids"),
        ([[1], "a"], r"prompts\[1\]: strings and ids together"),
        (7, r"prompts: int is not a string"),
        (np.zeros((1, 2, 3), int), r"an array of shape \[1, 2, 3\]"),
        ([[1, [2]], [3]], r"prompts\[0\]: not one sequence of ids"),
    ],
)
def test_bad_prompts(lstm, prompts, message):
    with pytest.raises(OptionError, match=message):
        decode(lstm, prompts)


def test_a_character_outside_the_vocabulary():
    with pytest.raises(
        OptionError, match=r"'ROMÉO:' has 'É' at position 3, which is not in the model's vocabulary of 65"
    ):
        decode("shakespeare", "ROMÉO:")
