"""decoding/text.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.errors import ModelError, OptionError
from decoding.text import Vocabulary, make_tokenizer


@given(st.text(alphabet="abcé\n ", max_size=40))
def test_characters_come_back_as_they_went_in(text):
    vocabulary = Vocabulary(["a", "b", "c", "é", "\n", " "])
    ids = vocabulary.encode(text)
    assert len(ids) == len(text)
    assert vocabulary.decode(ids) == text


def test_the_longest_token_that_fits_is_taken():
    vocabulary = Vocabulary(["C", "Cl", "l", "Br", "(", ")"])
    assert vocabulary.encode("CCl(Br)l") == [0, 1, 4, 3, 5, 2]


def test_a_character_outside_the_vocabulary_is_named_with_its_place():
    with pytest.raises(OptionError, match=r"'ab€' has '€' at position 2.*vocabulary of 2 tokens"):
        Vocabulary(["a", "b"]).encode("ab€")


def test_a_dict_gives_ids_to_tokens_and_may_leave_holes():
    tokenizer = make_tokenizer({"a": 2, "b": 0}, None, 4)
    assert tokenizer.encode("ba") == [0, 2]


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (["a"] * 5, "5 tokens, but the model gives 4 logits"),
        ({"a": 4}, "'a' has id 4, but the model gives 4 logits"),
        ([1, 2], "expected a list of strings"),
    ],
)
def test_a_vocabulary_of_another_model_is_refused(vocab, message):
    with pytest.raises(ModelError, match=message):
        make_tokenizer(None, vocab, 4)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(OptionError, match=r"int is not a list of tokens"):
        make_tokenizer(3, None, 4)
    with pytest.raises(OptionError, match=r"no such file: nowhere.json"):
        make_tokenizer("nowhere.json", None, 4)


def test_hugging_face_tokenizers():
    tokenizers = pytest.importorskip("tokenizers", reason="the text extra is not installed")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0, "be": 1, "?": 2}, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = make_tokenizer(inner, None, 3)
    assert tokenizer.encode("to be to") == [0, 1, 0]
    assert tokenizer.decode([0, 1]) == "to be"
