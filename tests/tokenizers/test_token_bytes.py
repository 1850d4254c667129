"""The bytes of tokens, of every kind of tokenizer: joined, they are the tokenizer's own text."""

import numpy as np
import pytest

from decoding import OptionError
from decoding.tokenizers import Vocabulary, read_tokenizer, token_bytes

pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("sentencepiece", reason="the text extra is not installed")

from tests.helpers.tokenizers import HUGGING_FACE, SENTENCE_PIECE, TEXT, trained

REFUSED = ("bpe_suffix", "ctc")  # the text of a token depends on the tokens around it


class Bytes:
    """A tokenizer of bytes, as ByT5's: the first ids are special."""

    vocab_size = 259

    def encode(self, text):
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids):
        return bytes(i - 3 for i in ids if i >= 3).decode("utf-8", "replace")


class Pairs(Bytes):
    """Tokens of two bytes, some of which are parts of characters."""

    vocab_size = 3 + 256 * 257

    def encode(self, text):
        own = text.encode()
        return [3 + 257 * a + b for a, b in zip(own[::2], [*own[1::2], *[256] * (len(own) % 2)], strict=True)]

    def decode(self, ids):
        parts = [divmod(i - 3, 257) for i in ids if i >= 3]
        return bytes(b for pair in parts for b in pair if b < 256).decode("utf-8", "replace")


def joined(found, ids):
    return found.join(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("kind", [k for k in (*HUGGING_FACE, *SENTENCE_PIECE) if k not in REFUSED])
def test_texts_are_the_joined_bytes_of_their_tokens(kind):
    tokenizer = read_tokenizer(trained(kind))
    found = token_bytes(tokenizer, tokenizer.size, ())
    for line in TEXT.splitlines():
        ids = tokenizer.encode(line)
        if all(found.after[i] for i in ids):  # an unknown token is none of a text
            assert joined(found, ids) == tokenizer.decode(ids)
    rng = np.random.default_rng(1)
    spelled = [i for i, own in enumerate(found.after) if own]
    texts = 0
    for _ in range(300):
        ids = rng.choice(spelled, rng.integers(1, 6)).tolist()
        try:
            text = found.join(ids).decode()
        except UnicodeDecodeError:
            continue
        texts += 1
        assert tokenizer.decode(ids) == text
    assert texts > 20


@pytest.mark.parametrize("kind", REFUSED)
def test_tokens_that_change_with_their_neighbours_are_refused(kind):
    tokenizer = read_tokenizer(trained(kind))
    with pytest.raises(OptionError, match=r"decodes the tokens \[.*\] to .*, but one after the other they are"):
        token_bytes(tokenizer, tokenizer.size, ())


@pytest.mark.parametrize("kind", ["byte_level", "llama", "unigram_bytes"])
def test_characters_may_be_spelled_by_bytes(kind):
    tokenizer = read_tokenizer(trained(kind))
    found = token_bytes(tokenizer, tokenizer.size, ())
    spelled = {found.after[i] for i in range(tokenizer.size)}
    assert all(bytes([byte]) in spelled for byte in "𓀀".encode())


def test_special_tokens_spell_nothing():
    tokenizer = read_tokenizer(trained("byte_level"))
    found = token_bytes(tokenizer, tokenizer.size, {70})
    special = [tokenizer.token_id(name) for name in ("<s>", "</s>", "<pad>", "<unk>")]
    assert all(found.first[i] == found.after[i] == b"" for i in [*special, 70])


def test_a_vocabulary_spells_its_strings():
    found = token_bytes(Vocabulary(["a", "é", "", " b"]), 4, {0})
    assert found.first == found.after == [b"", "é".encode(), b"", b" b"]


def test_an_object_of_bytes_is_known_by_what_it_encodes():
    found = token_bytes(read_tokenizer(Bytes()), 259, ())
    possible = [*range(0x80), *range(0x80, 0xC0), *range(0xC2, 0xF5)]  # the bytes that UTF-8 has
    assert found.after == [b"", b"", b"", *(bytes([b]) if b in possible else b"" for b in range(256))]


def test_an_object_with_parts_of_characters_that_it_does_not_tell_is_refused():
    with pytest.raises(OptionError, match="parts of characters, and does not tell their bytes"):
        token_bytes(read_tokenizer(Pairs()), Pairs.vocab_size, ())
