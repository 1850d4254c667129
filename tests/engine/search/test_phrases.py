"""MustContain: the phrases' progress against a search in the whole output, and beams against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Beam, DecodeError, Greedy, MustContain, OptionError, Request, Sample, decode, load, score
from decoding.engine.search.phrases import Phrases
from tests.helpers import build

EOS = 3


def small(seed, vocab=4, **options):
    return load(build.recurrent("GRU", vocab=vocab, hidden=4, seed=seed, scale=2.0), **options)


def has(output, phrase, start=0):
    """The end of the first run of the phrase in an output; None where there is none."""
    for at in range(start, len(output) - len(phrase) + 1):
        if tuple(output[at : at + len(phrase)]) == tuple(phrase):
            return at + len(phrase)
    return None


def has_all(output, phrases, ordered):
    if not ordered:
        return all(has(output, phrase) is not None for phrase in phrases)
    start = 0
    for phrase in phrases:
        start = has(output, phrase, start)
        if start is None:
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(
    phrases=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple), min_size=1, max_size=3),
    output=st.lists(st.integers(0, 2), max_size=14),
    ordered=st.booleans(),
)
def test_progress_is_what_the_whole_output_has(phrases, output, ordered):
    own = Phrases(phrases, ordered=ordered)
    progress = own.start()
    for length, token in enumerate(output, 1):
        progress = own.after(progress, token)
        assert all(progress.met) == has_all(output[:length], phrases, ordered)
        if not ordered:
            assert list(progress.met) == [has(output[:length], phrase) is not None for phrase in phrases]
        assert 0 <= own.bank(progress) <= sum(map(len, phrases))
    assert own.tokens(progress) <= {i for phrase in phrases for i in phrase}
    assert bool(own.tokens(progress)) != all(progress.met)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("phrases", [[(1, 2)], [(2,), (1, 0)], [(0, 1), (1, 0)], [(2, 2, 1)]])
def test_many_beams_find_the_best_of_all_outputs_with_the_phrases(phrases, ordered):
    longest = 5
    for seed in range(3):
        model = small(seed)
        every = {}
        for length in range(longest):
            for ids in itertools.product(range(3), repeat=length):
                if has_all(ids, phrases, ordered):
                    every[(*ids, EOS)] = np.nansum(score(model, [[0, *ids, EOS]])[0][1:], dtype=np.float64) / (
                        length + 1
                    )
        best = sorted(every.values(), reverse=True)[:4]
        beam = Beam(300, early_stopping="never", must_contain=MustContain(phrases, ordered))
        found = decode(model, [0], beam, max_new_tokens=longest, eos_token_id=EOS, num_return_sequences=300)
        assert all(has_all(h.tokens, phrases, ordered) for h in found)
        found = [h for h in found if h.finish_reason == "eos"]
        np.testing.assert_allclose([h.score for h in found][: len(best)], best, atol=1e-4)
        assert len(found) == len(every)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), phrase=st.lists(st.integers(0, 9), min_size=1, max_size=4), beams=st.integers(1, 6))
def test_a_few_beams_have_the_phrases_too(seed, phrase, beams):
    """Banks keep room for hypotheses that the model finds improbable."""
    model = small(seed, vocab=11)
    found = decode(
        model, [[1], [2, 3]], Beam(beams, must_contain=MustContain([phrase])), max_new_tokens=12, eos_token_id=10
    )
    assert len(found) == 2
    assert all(has(h.tokens, phrase) is not None for h in found)


def test_text_batches_and_requests():
    letters = list("abcdefghij ")
    model = small(1, vocab=11, tokenizer=letters)
    beam = Beam(6, must_contain=MustContain(["ab a", "fg"]))
    alone = [decode(model, [p], beam, max_new_tokens=14, num_return_sequences=3) for p in ("a", "bc", "d")]
    together = decode(model, ["a", "bc", "d"], beam, max_new_tokens=14, num_return_sequences=3, batch_size=12)
    assert together.tokens == [h.tokens for own in alone for h in own]
    assert all("ab a" in h.text and "fg" in h.text for h in together)
    mixed = decode(model, [Request("a", beam, num_return_sequences=3), Request("a", Greedy())], max_new_tokens=14)
    assert [h.tokens for h in mixed if h.prompt_index == 0] == [h.tokens for h in alone[0]]


def test_an_output_without_room_for_the_phrases_is_an_error():
    with pytest.raises(DecodeError, match="no hypothesis of at most 3 tokens has all phrases of MustContain"):
        decode(
            small(1), [0], Beam(4, must_contain=MustContain([[1, 2], [2, 1, 0]])), max_new_tokens=3, eos_token_id=EOS
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MustContain("abc"), "expected a list of strings or id sequences"),
        (lambda: MustContain([]), "expected a list"),
        (lambda: MustContain([""]), "an empty phrase is in every output"),
        (lambda: MustContain([[1], []]), "an empty phrase"),
        (lambda: MustContain([3]), "expected a string or a sequence of ids"),
        (lambda: MustContain([[-1]]), "phrases=-1"),
        (lambda: MustContain([[1]], ordered=2), "ordered"),
        (lambda: Beam(4, must_contain=["a"]), r"expected MustContain\(\[\.\.\.\]\)"),
        (lambda: Beam(4, num_beam_groups=2, must_contain=MustContain([[1]])), "expected 1 with must_contain"),
        (lambda: Sample(must_contain=MustContain([[1]])), "must_contain"),
        (lambda: decode(small(0), [0], Beam(2, must_contain=MustContain(["a"]))), "has no vocabulary; give ids"),
        (lambda: decode(small(0), [0], Beam(2, must_contain=MustContain([[9]]))), "9"),
        (
            lambda: decode(small(0), [0], Beam(2, must_contain=MustContain([[3]])), eos_token_id=3),
            "which ends an output",
        ),
        (lambda: decode(small(0), [0], Beam(2, must_contain=MustContain([[1] * 5])), max_new_tokens=4), "has 5 tokens"),
    ],
)
def test_wrong_phrases_are_named(make, message):
    with pytest.raises((OptionError, TypeError), match=message):
        make()
