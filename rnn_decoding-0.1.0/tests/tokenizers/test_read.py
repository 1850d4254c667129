"""decoding/tokenizers/read.py and tokenizer.py: what is a tokenizer, and what it does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.errors import DecodeError, ModelError, OptionError
from decoding.tokenizers import Vocabulary, make_tokenizer, read_tokenizer, token_texts


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


@given(st.lists(st.integers(0, 4), max_size=30))
def test_texts_of_tokens_join_to_the_text(ids):
    vocabulary = Vocabulary(["a", "", "é€", "\n", " b"])
    assert token_texts(vocabulary, ids) == [vocabulary.tokens[i] for i in ids]
    assert "".join(token_texts(vocabulary, ids)) == vocabulary.decode(ids)


class Bytes:
    """A token is a byte; a character that is not whole yet decodes to U+FFFD, as with byte-level vocabularies."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


@given(st.text(max_size=20))
def test_a_character_of_several_tokens_belongs_to_the_last(text):
    tokenizer = Bytes()
    texts = token_texts(tokenizer, tokenizer.encode(text))
    assert "".join(texts) == text
    assert [len(t) for t in texts] == [n for c in text for n in [0] * (len(c.encode()) - 1) + [1]]


@given(st.lists(st.integers(0, 255), max_size=20))
def test_bytes_that_are_no_text_lose_nothing(ids):
    texts = token_texts(Bytes(), ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == Bytes().decode(ids)


def test_the_space_before_a_word_is_kept():
    tokenizers = pytest.importorskip("tokenizers", reason="the text extra is not installed")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0, "be": 1, "?": 2}, unk_token="?"))
    assert token_texts(make_tokenizer(inner, None, 3), [0, 1, 0]) == ["to", " be", " to"]


def test_a_list_for_fewer_ids_than_the_model_has_says_so():
    assert repr(make_tokenizer(["a", "b"], None, 5)) == "vocabulary of 2 tokens for 5 ids"
    assert repr(make_tokenizer(["a", "b"], None, 2)) == "vocabulary of 2 tokens"


def test_a_vocabulary_of_other_things_than_strings_is_refused():
    with pytest.raises(OptionError, match=r"1\.5 is no token"):
        make_tokenizer({1.5: 1}, None, 3)


def test_wrapped_tokenizers_and_arrays_of_ids():
    tokenizers = pytest.importorskip("tokenizers", reason="the text extra is not installed")
    wrapped = tokenizers.ByteLevelBPETokenizer()
    wrapped.train_from_iterator(["to be or not to be"], vocab_size=300, show_progress=False)
    tokenizer = read_tokenizer(wrapped)
    assert tokenizer.decode(tokenizer.encode("to be")) == "to be"
    assert tokenizer.encode("to be") == wrapped.encode("to be").ids

    class Arrays(Bytes):
        def encode(self, text):
            return np.frombuffer(text.encode(), np.uint8)

    assert read_tokenizer(Arrays()).encode("ab") == [97, 98]


@pytest.mark.parametrize("returned", ["ab", None, [1.5], [-1], [[1]], [None]])
def test_an_object_that_returns_something_else_is_named(returned):
    class Own:
        def encode(self, text):
            return returned

        def decode(self, ids):
            return returned if returned != "ab" else b"ab"

    tokenizer = read_tokenizer(Own())
    with pytest.raises(OptionError, match=r"encode\(\) of the Own returned .*; expected a list of ids"):
        tokenizer.encode("x")
    with pytest.raises(DecodeError, match=r"decode\(\) of the Own returned .*; expected a string"):
        tokenizer.decode([1])


def test_exceptions_of_other_packages_become_ours():
    class Own:
        def encode(self, text):
            raise KeyError(text)

        def decode(self, ids):
            raise ZeroDivisionError

    tokenizer = read_tokenizer(Own())
    with pytest.raises(OptionError, match=r"the text 'x' cannot be encoded by the Own: KeyError"):
        tokenizer.encode("x")
    with pytest.raises(DecodeError, match=r"the ids \[1\] cannot be decoded by the Own: ZeroDivisionError"):
        tokenizer.decode([1])
    tokenizers = pytest.importorskip("tokenizers", reason="the text extra is not installed")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0}, unk_token="?"))
    with pytest.raises(OptionError, match=r"the text 'be' cannot be encoded by the Hugging Face tokenizer of 1 tokens"):
        read_tokenizer(inner).encode("be")
    with pytest.raises(OptionError, match="cannot be encoded"):
        read_tokenizer(inner).encode("\ud800")


def test_damaged_files_are_named(tmp_path):
    for package in ("tokenizers", "sentencepiece"):
        pytest.importorskip(package, reason="the text extra is not installed")
    for name in ("a.json", "a.model"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(OptionError, match=rf"tokenizer: .*{name} is no "):
            read_tokenizer(tmp_path / name)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(OptionError, match=r"expected a Hugging Face tokenizer.json"):
        read_tokenizer(str(tmp_path / "a.txt"))
    with pytest.raises(OptionError, match=r"the folder .* has no tokenizer.json"):
        read_tokenizer(tmp_path)
