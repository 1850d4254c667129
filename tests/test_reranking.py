"""decoding/choice.py, beside brute force."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding import Beam, Decoded, Hypothesis, OptionError, Sample, decode, mbr, rerank

sequences = st.lists(st.integers(0, 4), max_size=5)


@st.composite
def outputs(draw):
    """Hypotheses of a few prompts, mixed, with equal ones among them."""
    made = draw(st.lists(st.tuples(st.integers(0, 3), sequences, st.floats(-40, 0)), max_size=12))
    return [
        Hypothesis(prompt, rank, logprob, logprob, "length", np.zeros(len(ids), np.float32), np.array(ids, np.int64))
        for rank, (prompt, ids, logprob) in enumerate(made)
    ]


def overlap(a, b):
    """A similarity that is not symmetric: how much of the reference's tokens the candidate has."""
    return sum(token in a.tokens for token in b.tokens) / max(1, len(b.tokens))


def identity(h):
    return id(h.ids), h.prompt_index, h.logprob


@given(outputs(), st.booleans(), st.integers(0, 99))
def test_rerank_orders_each_prompt_and_loses_nothing(made, as_decoded, seed):
    rewards = np.random.default_rng(seed).integers(0, 4, len(made)).astype(float)  # with ties
    seen = []
    found = rerank(Decoded(made) if as_decoded else made, lambda batch: seen.append(batch) or rewards)
    assert isinstance(found, Decoded if as_decoded else list)
    assert [len(batch) for batch in seen] == ([len(made)] if made else [])
    assert sorted(map(identity, found)) == sorted(map(identity, made))
    reward_of = {id(h.ids): r for h, r in zip(made, rewards, strict=True)}
    assert all(h.score == reward_of[id(h.ids)] for h in found)
    first_seen = list(dict.fromkeys(h.prompt_index for h in made))
    assert list(dict.fromkeys(h.prompt_index for h in found)) == first_seen
    place = {id(h.ids): i for i, h in enumerate(made)}
    for prompt in first_seen:
        group = [h for h in found if h.prompt_index == prompt]
        assert [h.rank for h in group] == list(range(len(group)))
        keys = [(-h.score, place[id(h.ids)]) for h in group]
        assert keys == sorted(keys)


@given(outputs(), st.sampled_from(["uniform", "probability"]))
def test_mbr_is_the_expected_similarity(made, weights):
    found = mbr(made, overlap, weights=weights)
    assert sorted(map(identity, found)) == sorted(map(identity, made))
    for h in found:
        others = [o for o in made if o.prompt_index == h.prompt_index]
        p = [np.exp(o.logprob - h.logprob) if weights == "probability" else 1.0 for o in others]
        expected = sum(w * overlap(h, o) for w, o in zip(p, others, strict=True)) / sum(p)
        assert h.score == pytest.approx(expected, abs=1e-9)
    for prompt in {h.prompt_index for h in made}:
        scores = [h.score for h in found if h.prompt_index == prompt]
        assert scores == sorted(scores, reverse=True)


def test_mbr_asks_for_every_ordered_pair_once():
    made = decode("shakespeare", ["ROMEO:", "JULIET:"], Sample(), max_new_tokens=6, num_return_sequences=5, seed=1)
    pairs = []
    mbr(made, lambda a, b: pairs.append((a.prompt_index, a.rank, b.prompt_index, b.rank)) or 0.0)
    assert len(pairs) == len(set(pairs)) == 2 * 5 * 5
    assert all(a == b for a, _, b, _ in pairs)


def test_mbr_prefers_what_most_samples_agree_on_to_the_likeliest():
    """Two of three samples are nearly the same; the third is likelier but alone."""

    def made(rank, ids, logprob):
        return Hypothesis(0, rank, logprob, logprob, "eos", np.zeros(3, np.float32), np.array(ids))  # fmt: skip

    samples = [made(0, [7, 8, 9], -1.0), made(1, [1, 2, 3], -2.0), made(2, [1, 2, 4], -2.5)]
    assert mbr(samples, overlap)[0].tokens in ([1, 2, 3], [1, 2, 4])
    assert mbr(samples, lambda a, b: float(a.tokens == b.tokens), weights="probability")[0].tokens == [7, 8, 9]


def test_everything_of_a_real_run_is_kept():
    out = decode("shakespeare", "ROMEO:", Beam(4), max_new_tokens=8, num_return_sequences=4)
    found = rerank(out, lambda batch: (batch.padded(0) == 1).sum(1) - np.arange(4))
    by_tokens = {tuple(h.tokens): h for h in out}
    for h in found:
        old = by_tokens.pop(tuple(h.tokens))
        for field in fields(Hypothesis):
            if field.name not in ("score", "rank"):
                assert getattr(h, field.name) is getattr(old, field.name)
        assert h.text == old.text
    assert not by_tokens
    assert found.by_prompt()[0][0] is found[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: rerank(out, lambda batch: [1.0]), r"reward returned an array of shape \[1\]: expected \[3\]"),
        (
            lambda out: rerank(out, lambda batch: None),
            r"reward returned an array of shape \[\]|reward returned NoneType",
        ),
        (lambda out: rerank(out, 3), r"reward: int is not a function of a Decoded"),
        (lambda out: rerank(out, lambda batch: ["a"] * 3), r"reward returned list: expected a number"),
        (lambda out: rerank(out, lambda batch: [0, np.nan, 1]), r"reward returned NaN for output 1 of prompt 0"),
        (lambda out: rerank(["text"], lambda batch: [0]), r"hypotheses: found list; expected what decode\(\) returns"),
        (lambda out: mbr(out, lambda a, b: None), r"similarity returned None for outputs 0 and 0 of prompt 0"),
        (lambda out: mbr(out, lambda a, b: np.inf), r"similarity returned inf"),
        (lambda out: mbr(out, overlap, weights="logprob"), r"weights='logprob': expected 'uniform' or 'probability'"),
    ],
)
def test_wrong_answers_are_named(call, message):
    out = decode("shakespeare", "A", Sample(), max_new_tokens=3, num_return_sequences=3, seed=1)
    with pytest.raises(OptionError, match=message):
        call(out)
