"""decoding/results.py."""

import html
import re

import numpy as np
import pytest

from decoding import Decoded, Hypothesis, Sample, decode, load
from decoding.tokenizers import Vocabulary
from tests.helpers import build

PROMPTS = [[1, 2, 3], [4], [5, 6]]


@pytest.fixture(scope="module")
def model():
    return load(build.recurrent())


def made(ids, logprobs, tokenizer=None):
    ids, logprobs = np.array(ids, np.int64), np.array(logprobs, np.float32)
    return Hypothesis(0, 0, float(logprobs.sum()), -1.5, "length", logprobs, ids, tokenizer)


def without_tags(shown):
    return html.unescape(re.sub(r"<[^>]*>", "", shown))


def test_padded_and_scores(model):
    out = decode(model, PROMPTS, Sample(), max_new_tokens=20, seed=9, eos_token_id=3)
    padded = out.padded(-1)
    assert padded.shape == (len(out), max(map(len, out.tokens)))
    assert [row[row >= 0].tolist() for row in padded] == out.tokens
    assert out.scores.tolist() == [h.score for h in out]
    assert out[2:4].tokens == out.tokens[2:4]


def test_token_texts_join_to_the_text():
    (h,) = decode("shakespeare", "ROMEO:", Sample(), max_new_tokens=30, seed=1)
    assert len(h.token_texts) == len(h.tokens) == 30
    assert "".join(h.token_texts) == h.text
    assert made([1], [-1]).token_texts is None


# -- in a notebook -------------------------------------------------------------------------------------------


def test_text_is_escaped():
    model = load(build.recurrent(metadata={"decoding.vocab": ["<b>&\"'"] * 11}))
    out = decode(model, [1], max_new_tokens=3)
    for shown in (out._repr_html_(), out[0]._repr_html_()):
        assert "<b>" not in shown
        assert "<b>&\"'<b>&\"'" in without_tags(shown)


def test_tokens_are_shaded_by_their_probability():
    tokenizer = Vocabulary(["a", "b", "c"])
    shown = made([0, 1, 2], np.log([1.0, 0.5, 0.0 + 1e-30]), tokenizer)._repr_html_()
    spans = re.findall(r"probability (\S+)' style='background:rgba\(66,133,214,(\S+)\)'>(.)<", shown)
    assert [(float(p), float(alpha), text) for p, alpha, text in spans] == [
        (1, 0.6, "a"),
        (0.5, 0.3, "b"),
        (pytest.approx(1e-30, rel=1e-3), 0, "c"),
    ]


def test_score_and_finish_reason_are_told():
    shown = without_tags(made([0, 1], [-1, -2])._repr_html_())
    assert "score -1.500, log-probability -3.000, 2 tokens, length" in shown
    assert shown.endswith("0 1 ")  # ids where there is no tokenizer


def test_a_table_names_each_prompt_once(model):
    out = decode(model, PROMPTS, Sample(), max_new_tokens=4, num_return_sequences=3, seed=1)
    shown = out._repr_html_()
    assert re.findall(r"<td rowspan='3'>(\d)</td>", shown) == ["0", "1", "2"]
    assert shown.count("<tr>") == 1 + 9
    for h in out:
        assert f"<td>{h.rank}</td><td>{h.score:.3f}</td><td>length</td>" in shown


def test_long_results_are_cut_with_a_count():
    long = made(np.zeros(1234), np.zeros(1234))
    assert without_tags(long._repr_html_()).endswith(" ... and 234 more tokens")
    shown = Decoded([long] * 25)._repr_html_()
    assert shown.count("... and 1034 more tokens") == 20
    assert "... and 5 more</td>" in shown
    assert "more" not in made(np.zeros(1000), np.zeros(1000))._repr_html_()
