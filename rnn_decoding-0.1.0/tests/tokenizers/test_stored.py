"""decoding/tokenizers/stored.py: tokenizers in metadata."""

import base64
import json
import random

import pytest

from decoding.errors import ModelError, OptionError
from decoding.tokenizers import METADATA_KEYS, Vocabulary, read_tokenizer, stored_tokenizer, tokenizer_metadata
from tests.helpers.tokenizers import HUGGING_FACE, SENTENCE_PIECE, TEXT, sentence_piece, trained

pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("sentencepiece", reason="the text extra is not installed")


@pytest.mark.parametrize("kind", [*HUGGING_FACE, *SENTENCE_PIECE])
def test_a_stored_tokenizer_is_the_same(kind):
    tokenizer = read_tokenizer(trained(kind))
    entries = tokenizer_metadata(tokenizer)
    assert set(entries) == set(METADATA_KEYS)
    again = stored_tokenizer({key: value for key, value in entries.items() if value is not None}, "m.onnx")
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    ids = random.Random(0).choices(range(tokenizer.size), k=200)
    assert again.decode(ids) == tokenizer.decode(ids)
    assert again.size == tokenizer.size


def test_a_vocabulary_is_stored_as_a_list():
    entries = tokenizer_metadata(Vocabulary(["a", "", "é"]))
    assert json.loads(entries["decoding.vocab"]) == ["a", "", "é"]
    assert [key for key, value in entries.items() if value is not None] == ["decoding.vocab"]
    assert set(tokenizer_metadata(None).values()) == {None}


def test_an_object_of_the_callers_cannot_be_stored():
    class Own:
        def encode(self, text):
            return [0]

        def decode(self, ids):
            return ""

    with pytest.raises(OptionError, match=r"a Own cannot be written into a file; load the model without tokenizer="):
        tokenizer_metadata(read_tokenizer(Own()))


MODEL = base64.b64encode(sentence_piece("unigram").serialized_model_proto()).decode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer", ""),
        ("tokenizer", "{}"),
        ("tokenizer", "[" * 10**5),
        ("tokenizer", '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}'),
        ("sentencepiece", ""),
        ("sentencepiece", "é"),
        ("sentencepiece", "AAAA"),
        ("sentencepiece", MODEL[: len(MODEL) // 8 * 4]),
    ],
)
def test_damage_is_named(key, value):
    with pytest.raises(ModelError, match=rf"^m\.onnx: metadata 'decoding\.{key}' is "):
        stored_tokenizer({f"decoding.{key}": value}, "m.onnx")


@pytest.mark.parametrize("kind", ["llama", "unigram_bytes"])
def test_damaged_bytes_end_in_words_or_in_a_tokenizer(kind):
    """300 changed files: none ends the process, and none ends in an exception of another package."""
    ((key, text),) = ((k, v) for k, v in tokenizer_metadata(read_tokenizer(trained(kind))).items() if v is not None)
    rng, refused = random.Random(3), 0
    data = text.encode() if key == "decoding.tokenizer" else base64.b64decode(text)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        value = (
            damaged.decode("utf-8", "replace") if key == "decoding.tokenizer" else base64.b64encode(damaged).decode()
        )
        try:
            tokenizer = stored_tokenizer({key: value}, "m.onnx")
            tokenizer.decode(tokenizer.encode("All human"))
        except (ModelError, OptionError):
            refused += 1
    assert 10 < refused < 300
