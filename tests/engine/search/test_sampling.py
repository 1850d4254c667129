"""What decode() does beside the plain draw: filters, stops, processors, distinct samples, workers, teachers, scores."""

import itertools
import math
import threading
import time

import numpy as np
import pytest
from scipy import stats

import decoding
from decoding import (
    Beam,
    OptionError,
    Sample,
    TopN,
    decode,
    decode_iter,
    kernels,
    load,
    score,
    stream,
)
from tests.helpers import build

PROMPTS = [[1], [2, 3, 4], [5, 6], [7], [1, 2, 3, 4, 5, 6, 7, 8], [9], [3, 3], [0, 1, 2], [4], [10, 9]]
P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


@pytest.fixture(scope="module")
def lstm():
    return load(build.recurrent("LSTM", layers=2, scale=0.7, seed=3))


@pytest.fixture(scope="module")
def unigram():
    return load(build.unigram(np.log(P)))


def shares(model, strategy, **options):
    """Relative frequencies of 20,000 tokens, and their number."""
    out = decode(model, [[0]] * 40, strategy, max_new_tokens=500, seed=1, eos_token_id=None, **options)
    return np.bincount(np.concatenate(out.tokens), minlength=len(P)), 20_000


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Sample(top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
        (Sample(top_p=0.6), [4 / 7, 3 / 7, 0, 0, 0]),
        (Sample(min_p=0.3), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (Sample(epsilon_cutoff=0.12), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (Sample(temperature=0.5, top_k=3), np.array([16, 9, 2.25, 0, 0]) / 27.25),
        (TopN(3), [1 / 3, 1 / 3, 1 / 3, 0, 0]),
    ],
)
def test_filters_leave_the_tokens_that_they_should_with_the_right_shares(unigram, strategy, expected):
    counts, n = shares(unigram, strategy)
    expected = np.array(expected)
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    assert stats.chisquare(counts[kept], expected[kept] * n).pvalue > 1e-6


def test_no_eos_before_the_shortest_length(lstm):
    free = decode(lstm, PROMPTS, Sample(), max_new_tokens=30, seed=2, eos_token_id=[1, 2, 3])
    out = decode(lstm, PROMPTS, Sample(), max_new_tokens=30, min_new_tokens=6, seed=2, eos_token_id=[1, 2, 3])
    assert min(len(h.token_logprobs) for h in free) < 6 <= min(len(h.token_logprobs) for h in out)
    assert {h.finish_reason for h in out} >= {"eos"}


def test_stop_ids_and_strings_reach_across_tokens():
    vocab = ["a", "b", "ab", "c", "é", "", "bc", "x", "y", "z", "w"]
    model = load(build.recurrent("GRU", seed=2, metadata={"decoding.vocab": vocab}))
    free = decode(model, [[i] for i in range(11)], Sample(), max_new_tokens=60, seed=4)
    out = decode(model, [[i] for i in range(11)], Sample(), max_new_tokens=60, seed=4, stop=["abc", [7, 8]])
    stopped = 0
    for a, b in zip(free, out, strict=True):
        ends = []
        for n in range(1, len(a.tokens) + 1):
            text, ids = "".join(vocab[t] for t in a.tokens[:n]), a.tokens[:n]
            if "abc" in text or ids[-2:] == [7, 8]:
                ends.append(n)
                break
        expected = a.tokens[: ends[0]] if ends else a.tokens
        assert b.tokens == expected
        stopped += b.finish_reason == "stop"
        assert (b.finish_reason == "stop") == bool(ends)
    assert stopped > 3


@pytest.mark.parametrize("strategy", [Sample(replacement=False), Beam(num_beams=6)], ids=["distinct", "beam"])
def test_stop_sequences_in_searches(strategy):
    vocab = ["a", "b", "ab", "c", "é", "", "bc", "x", "y", "z", "w"]
    model = load(build.recurrent("GRU", seed=2, metadata={"decoding.vocab": vocab}))
    out = decode(model, [[i] for i in range(11)], strategy, max_new_tokens=8, seed=4, stop=["a", [7]],
                 num_return_sequences=6)  # fmt: skip
    stopped = 0
    for h in out:
        ends = [i for i, t in enumerate(h.tokens) if "a" in vocab[t] or t == 7]
        assert (ends == [len(h.tokens) - 1]) if h.finish_reason == "stop" else not ends
        stopped += h.finish_reason == "stop"
    assert stopped


def test_top_logprobs_are_the_models_best(lstm):
    (h,) = decode(lstm, [1, 2], Sample(temperature=2.0), max_new_tokens=6, seed=1, logprobs=3)
    ids, values = h.top_logprobs
    logits = build.whole_run(build.recurrent("LSTM", layers=2, scale=0.7, seed=3), [[1, 2, *h.tokens]])[0, 1:-1].astype(
        float
    )
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-expected, axis=-1)[:, :3]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(values, np.take_along_axis(expected, order, -1), atol=1e-5)


# -- without replacement -------------------------------------------------------------------------------------


def inclusion(p, k):
    """Probability of each outcome to be in k draws without replacement, by enumeration."""
    found = np.zeros(len(p))
    for order in itertools.permutations(range(len(p)), k):
        chance, left = 1.0, 1.0
        for i in order:
            chance *= p[i] / left
            left -= p[i]
        found[list(order)] += chance
    return found


def test_distinct_sequences_are_included_as_often_as_they_should():
    model = load(build.recurrent("GRU", vocab=3, hidden=4, seed=1, scale=1.5))
    outputs = [(a, b) for a in range(3) for b in range(3)]
    p = np.exp([float(lp[1:].sum()) for lp in score(model, [[0, *o] for o in outputs])])
    assert p.sum() == pytest.approx(1, abs=1e-5)
    k, rounds = 3, 4000
    out = decode(
        model,
        [[0]] * rounds,
        Sample(replacement=False),
        max_new_tokens=2,
        num_return_sequences=k,
        seed=3,
        eos_token_id=None,
    )
    counts = np.zeros(len(outputs))
    for group in out.by_prompt():
        tokens = {tuple(h.tokens) for h in group}
        assert len(tokens) == k
        for t in tokens:
            counts[outputs.index(t)] += 1
    expected = inclusion(p / p.sum(), k)
    z = (counts / rounds - expected) / np.sqrt(expected * (1 - expected) / rounds)
    assert np.abs(z).max() < 5.2  # p about 1e-6 over nine of them


def test_distinct_gives_all_sequences_where_there_are_no_more():
    model = load(build.recurrent("GRU", vocab=2, hidden=4, seed=1))
    out = decode(
        model, [0], Sample(replacement=False), max_new_tokens=2, num_return_sequences=9, seed=1, eos_token_id=None
    )
    assert sorted(out.tokens) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(np.exp([h.logprob for h in out]).sum(), 1, atol=1e-5)


# -- many at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Sample(temperature=0.9), Beam(num_beams=3), Sample(replacement=False)])
def test_workers_change_nothing(lstm, strategy):
    options = {"max_new_tokens": 12, "seed": 5, "eos_token_id": 3, "num_return_sequences": 3, "batch_size": 4}
    one = decode(lstm, PROMPTS * 3, strategy, workers=1, **options)
    assert decode(lstm, PROMPTS * 3, strategy, workers=3, **options).tokens == one.tokens


@pytest.mark.thread_unsafe(reason="looks at all threads of the process")
def test_an_error_in_a_worker_comes_out_and_stops_the_others(lstm):
    def fail(history, logits):
        raise KeyError("mine")

    before = set(threading.enumerate())
    with pytest.raises(KeyError, match="mine"):
        decode(lstm, PROMPTS * 3, Sample(), processors=[fail], workers=3)
    assert set(threading.enumerate()) <= before


def test_decode_iter_takes_an_endless_iterator_as_places_get_free(lstm):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield PROMPTS[i % len(PROMPTS)]

    options = {"max_new_tokens": 10, "seed": 5, "eos_token_id": 3, "batch_size": 4}
    found = list(itertools.islice(decode_iter(lstm, endless(), Sample(), **options), 60))
    assert len(taken) <= 60 + 4 * 4  # in the slots, waiting for one, being read, and finished before they are asked for
    expected = decode(lstm, PROMPTS * 8, Sample(), **options)
    assert {h.prompt_index: h.tokens for h in found} == {h.prompt_index: expected[h.prompt_index].tokens for h in found}


def test_decode_iter_groups_the_outputs_of_a_prompt(lstm):
    found = list(
        decode_iter(
            lstm, iter(PROMPTS), Sample(), max_new_tokens=9, seed=1, num_return_sequences=3, workers=2, batch_size=4
        )
    )
    assert len(found) == 30
    for i in range(0, 30, 3):
        assert len({h.prompt_index for h in found[i : i + 3]}) == 1
        assert [h.rank for h in found[i : i + 3]] == [0, 1, 2]


def test_ctrl_c_stops_within_a_step_and_leaves_the_model_usable(lstm):
    def interrupt(history, logits):
        if len(history.outputs[0]) == 5:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        decode(lstm, PROMPTS, Sample(), max_new_tokens=100_000, seed=1, processors=[interrupt])
    assert time.monotonic() - start < 5
    assert len(decode(lstm, PROMPTS, Sample(), max_new_tokens=3)) == len(PROMPTS)


def test_the_progress_bar_counts_sequences_and_tokens(lstm, capsys):
    decode(lstm, PROMPTS, Sample(), max_new_tokens=3, seed=1, progress=True)
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "tokens/s" in shown


# -- scores and teachers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_score_equals_a_whole_sequence_run(lstm, batch_size):
    proto = build.recurrent("LSTM", layers=2, scale=0.7, seed=3)
    for ids, found in zip(PROMPTS, score(lstm, PROMPTS, batch_size=batch_size), strict=True):
        logits = build.whole_run(proto, [ids])[0].astype(float)
        expected = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:], expected, atol=1e-5)


def test_score_starts_after_bos_where_there_is_one():
    model = load(build.recurrent(seed=1, metadata={"decoding.bos": 4}))
    plain = load(build.recurrent(seed=1))
    np.testing.assert_allclose(score(model, [[1, 2]])[0], score(plain, [[4, 1, 2]])[0][1:], atol=1e-6)


def test_a_teacher_who_is_always_followed_makes_every_step_see_its_tokens(lstm):
    teacher = [[2, 7, 1, 8, 2, 8]]
    (h,) = decode(lstm, [3], Sample(), teacher=teacher, teacher_ratio=1.0, max_new_tokens=6, seed=1, logprobs=11)
    np.testing.assert_allclose(h.teacher_logprobs, score(lstm, [3, *teacher[0]])[0][1:], atol=1e-5)
    ids, values = h.top_logprobs
    own = [float(values[t][ids[t] == token][0]) for t, token in enumerate(h.tokens)]
    np.testing.assert_allclose(h.token_logprobs, own, atol=1e-6)


def test_a_teacher_who_is_never_followed_changes_nothing(lstm):
    plain = decode(lstm, PROMPTS, Sample(), max_new_tokens=9, seed=1)
    taught = decode(
        lstm, PROMPTS, Sample(), max_new_tokens=9, seed=1, teacher=[[1, 2]] * len(PROMPTS), teacher_ratio=0.0
    )
    assert taught.tokens == plain.tokens
    assert all(np.isnan(h.teacher_logprobs[2:]).all() and np.isfinite(h.teacher_logprobs[:2]).all() for h in taught)


def test_a_teacher_is_followed_as_often_as_asked():
    # Identity-like model: the state forgets, logits prefer the last token strongly, so outputs show what was fed.
    steps, rows, ratio = 50, 60, 0.3
    coins = kernels.uniform(9, range(rows), 0, 1, "teacher")[:, 0]
    assert abs((coins < ratio).mean() - ratio) < 5 * math.sqrt(ratio * (1 - ratio) / rows)
    model = load(build.recurrent("GRU", seed=1, scale=0.7))
    half = decode(
        model, [[1]] * rows, Sample(), teacher=[[2] * steps] * rows, teacher_ratio=ratio, max_new_tokens=steps, seed=9
    )
    same = decode(
        model,
        [[1]] * rows,
        Sample(),
        teacher=[[2] * steps] * rows,
        teacher_ratio=ratio,
        max_new_tokens=steps,
        seed=9,
        batch_size=7,
    )
    assert half.tokens == same.tokens


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sample(top_k=-1), r"Sample\(top_k=-1\): expected a whole number of at least 0"),
        (lambda: Sample(top_p=0.0), r"Sample\(top_p=0.0\): expected in \(0, 1\]"),
        (lambda: Sample(min_p=1.5), r"Sample\(min_p=1.5\): expected in \[0, 1\]"),
        (lambda: Sample(typical_p=-0.1), r"typical_p=-0.1"),
        (lambda: Sample(epsilon_cutoff=1.0), r"epsilon_cutoff=1.0\): expected in \[0, 1\)"),
        (lambda: Sample(eta_cutoff=math.nan), r"eta_cutoff=nan"),
        (lambda: Sample(replacement=1), r"replacement=1\): expected True or False"),
        (lambda: TopN(0), r"TopN\(n=0\): expected a whole number of at least 1"),
    ],
)
def test_wrong_fields_fail_when_the_object_is_made(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_a_search_does_not_stream(lstm):
    with pytest.raises(OptionError, match="no token before the end"):
        stream(lstm, [1], Beam())


def test_everything_public_is_exported():
    assert all(hasattr(decoding, name) for name in decoding.__all__)
