"""Constraints over the vocabularies of real tokenizers: the text of the output, as the tokenizer gives it, obeys."""

import itertools
import re

import pytest

from decoding import Beam, OptionError, Regex, Sample, decode, load
from tests.helpers import build

pytest.importorskip("llguidance", reason="llguidance is not installed (pip install '.[constraints]')")
pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("sentencepiece", reason="the text extra is not installed")

from tests.helpers.tokenizers import HUGGING_FACE, SENTENCE_PIECE, trained

REFUSED = ("bpe_suffix", "ctc")


def model(kind, seed=1):
    tokenizer = trained(kind)
    size = len(tokenizer) if kind in SENTENCE_PIECE else tokenizer.get_vocab_size()
    return load(build.recurrent("GRU", vocab=size, hidden=8, seed=seed), tokenizer=tokenizer)


@pytest.mark.parametrize("kind", [k for k in (*HUGGING_FACE, *SENTENCE_PIECE) if k not in REFUSED])
@pytest.mark.parametrize("pattern", ["[a-z]{2,9}( [a-z]+){1,2}", r"[^ \n]{3,12}", "( ?(and|in|Tous|人|é)){3}"])
def test_outputs_of_every_tokenizer_obey(kind, pattern):
    own = model(kind)
    if kind == "words":  # its tokens are whole words: a text of them is never glued
        pattern = "[a-z]+( [a-z]+){1,2}"
    found = decode(own, ["in"] * 30, Sample(temperature=3.0), processors=[Regex(pattern)], seed=2, max_new_tokens=80)
    whole = [h.text for h in found if h.finish_reason != "length"]
    assert len(whole) > 5
    assert all(re.fullmatch(pattern, text) for text in whole)
    beams = decode(own, ["in"], Beam(3), processors=[Regex(pattern)], max_new_tokens=80, num_return_sequences=3)
    assert all(re.fullmatch(pattern, h.text) for h in beams if h.finish_reason != "length")


@pytest.mark.parametrize("kind", ["llama", "unigram", "metaspace", "word_piece", "byte_level"])
def test_every_spelling_of_a_text_is_allowed(kind):
    """Greedy search over models that prefer other tokens each: what they may begin with is what the decoder says."""
    own = model(kind)
    tokenizer, text = own.tokenizer, "and in"
    ids = range(tokenizer.size)
    singles = {i for i in ids if (t := tokenizer.decode([i])) and text.startswith(t)}
    pairs = {
        (i, j) for i, j in itertools.product(singles, ids) if tokenizer.decode([i, j]) == "and in"[: len(tokenizer.decode([i, j]))]
        and len(tokenizer.decode([i, j])) > len(tokenizer.decode([i]))
    }  # fmt: skip
    seen = set()

    def look(history, logits):
        for output, row in zip(history.outputs, logits, strict=True):
            for token in (row > -float("inf")).nonzero()[0].tolist():
                if len(output) < 2:
                    seen.add((*output.tolist(), token))

    decode(own, ["in"] * 400, Sample(temperature=50.0), processors=[Regex(text), look], seed=3, max_new_tokens=2)
    special = set(own.eos_token_id)
    begin = {i for (i, *rest) in seen if not rest} - special
    assert begin >= singles
    assert all(tokenizer.decode([i]) == "" for i in begin - singles)
    for i in begin & singles:
        after = {rest[0] for (first, *rest) in seen if first == i and rest} - special
        if after:
            assert after == {j for first, j in pairs if first == i}


@pytest.mark.parametrize("kind", REFUSED)
def test_tokenizers_whose_tokens_change_are_refused(kind):
    with pytest.raises(OptionError, match="whose text is the concatenation of its tokens' bytes"):
        decode(model(kind), "in", processors=[Regex("a+")])


def test_special_tokens_are_no_text():
    own = model("byte_level")
    found = decode(
        own, ["in"] * 50, Sample(temperature=5.0), processors=[Regex("(?s:.{5,60})")], seed=1, max_new_tokens=60
    )
    assert not any("<s>" in h.text or "<pad>" in h.text or "<unk>" in h.text for h in found)
