"""decoding/tokenizers/text_stream.py: pieces join to the text, whatever the ids are."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.tokenizers import TextStream, Vocabulary, read_tokenizer, token_texts
from tests.helpers.tokenizers import HUGGING_FACE, SENTENCE_PIECE, TEXT, trained

pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("sentencepiece", reason="the text extra is not installed")
KINDS = [*HUGGING_FACE, *SENTENCE_PIECE]


def streamed(tokenizer, ids):
    """The pieces of a stream, what was left at its end last."""
    stream = TextStream(tokenizer)
    return [*map(stream.push, ids), stream.finish()]


def check(tokenizer, ids):
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first example trains the tokenizer
@given(data=st.data())
def test_pieces_of_random_ids_join_to_the_text(kind, data):
    tokenizer = read_tokenizer(trained(kind))
    # Ids beyond the tokens are those of a padded embedding.
    check(tokenizer, data.draw(st.lists(st.integers(0, tokenizer.size + 3), max_size=40)))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first example trains the tokenizer
@given(text=st.text(alphabet=st.one_of(st.sampled_from(TEXT), st.characters(exclude_categories=["Cs"])), max_size=60))
def test_pieces_of_a_text_join_to_the_text(kind, text):
    tokenizer = read_tokenizer(trained(kind))
    check(tokenizer, tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first example trains the tokenizer
@given(
    start=st.integers(0, len(TEXT)), changes=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**6)), max_size=6)
)
def test_pieces_of_a_damaged_text_join_to_the_text(kind, start, changes):
    """A byte that is missing or wrong turns up within real text: so is ByteFallback's run of bytes all wrong."""
    tokenizer = read_tokenizer(trained(kind))
    ids = tokenizer.encode(TEXT[start : start + 40])
    for place, change in changes if ids else ():
        ids[place % len(ids)] = change % tokenizer.size
    check(tokenizer, ids)


@pytest.mark.parametrize("kind", ["byte_level", "unigram_bytes", "bpe_bytes"])
def test_a_character_comes_with_its_last_token(kind):
    tokenizer = read_tokenizer(trained(kind))
    text = "a 鬱 b 𝄞 c 鬱鬱 d"  # of several bytes, and none of them a token of its own
    ids = tokenizer.encode(text)
    pieces, known = streamed(tokenizer, ids), ""
    assert pieces[-1] == ""
    for read, piece in enumerate(pieces[:-1], 1):
        known += piece
        assert known == tokenizer.decode(ids[:read]).rstrip("\ufffd")
    assert "\ufffd" not in known
    assert len(ids) > len(text)


def test_a_run_of_byte_fallback_comes_when_it_has_ended():
    """Hugging Face makes all bytes of a run U+FFFD where one is wrong: no piece may come before the run's end."""
    tokenizer = read_tokenizer(trained("gemma"))
    ids = tokenizer.encode("a鬱b")
    assert streamed(tokenizer, ids) == ["a", "", "", "", "鬱b", ""]
    wrong = [*ids[:4], ids[1], ids[4]]
    assert streamed(tokenizer, wrong) == ["a", "", "", "", "", "����b", ""]
    assert token_texts(tokenizer, ids) == ["a", "", "", "鬱", "b"]


def test_what_is_left_comes_at_the_end():
    tokenizer = read_tokenizer(trained("byte_level"))
    ids = tokenizer.encode("鬱")
    assert len(ids) > 1
    assert streamed(tokenizer, ids[:-1]) == [*[""] * (len(ids) - 1), "\ufffd"]


class Counting:
    """A tokenizer that counts the ids that it has decoded."""

    def __init__(self, inner):
        self.inner, self.count = inner, 0

    def encode(self, text):
        return self.inner.encode(text)

    def decode(self, ids):
        self.count += len(ids)
        return self.inner.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", ["random", "text", "one"])
def test_a_stream_takes_linear_time(kind, ids):
    """Runs without any settled text too: 10,000 times one control token, or one byte that begins a character."""
    inner = read_tokenizer(trained(kind))
    rng = random.Random(1)
    for one in rng.sample(range(inner.size), 4) if ids == "one" else [0]:
        sequence = {
            "random": lambda: [rng.randrange(inner.size) for _ in range(10_000)],
            "text": lambda: (inner.encode(TEXT) * 40)[:10_000],
            "one": lambda one=one: [one] * 10_000,
        }[ids]()
        tokenizer = Counting(inner)
        # The wrapper hides the kind, and with it the runs of bytes that wait: only sequences without them are exact.
        streamed(tokenizer, sequence)
        assert tokenizer.count < 40 * len(sequence)
        assert "".join(streamed(inner, sequence)) == inner.decode(sequence)


def test_tokens_of_a_vocabulary_come_at_once():
    assert streamed(Vocabulary(["a", "", " b"]), [0, 1, 2, 2]) == ["a", "", " b", " b", ""]


def test_slow_tokenizers_of_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    tokenizer = read_tokenizer(transformers.ByT5Tokenizer())
    ids = tokenizer.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == TEXT
    assert pieces[len(TEXT[: TEXT.index("ê")].encode()) :][:2] == ["", "ê"]
    rng = random.Random(2)
    for _ in range(200):
        check(tokenizer, [rng.randrange(400) for _ in range(30)])
