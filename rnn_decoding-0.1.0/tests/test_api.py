"""decoding/api.py: decode() and stream()."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import DecodeError, Greedy, Sample, decode, kernels, load, stream
from tests.helpers import build

PROMPTS = [[1], [2, 3, 4], [5, 6], [7], [1, 2, 3, 4, 5, 6, 7, 8], [9], [3, 3], [0, 1, 2], [4], [10, 9]]


@pytest.fixture(scope="module")
def lstm():
    return load(build.recurrent("LSTM", layers=2, scale=0.7, seed=3))


def plain_loop(proto, prompt, choose, steps):
    """The slow and obvious way: the unchanged file over the whole sequence, at every step."""
    ids = list(prompt)
    for step in range(steps):
        ids.append(choose(build.whole_run(proto, [ids])[0, -1], step))
    return ids[len(prompt) :]


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("exposed", [False, True])
def test_greedy_equals_the_plain_loop(cell, exposed):
    model = load(build.recurrent(cell, layers=2, exposed=exposed, seed=5))
    proto = build.recurrent(cell, layers=2, seed=5)
    out = decode(model, PROMPTS, Greedy(), max_new_tokens=12)
    for prompt, tokens in zip(PROMPTS, out.tokens, strict=True):
        assert tokens == plain_loop(proto, prompt, lambda logits, step: int(logits.argmax()), 12)


def test_sampling_equals_the_plain_loop_with_the_same_keys(lstm):
    proto = build.recurrent("LSTM", layers=2, scale=0.7, seed=3)
    out = decode(lstm, PROMPTS, Sample(temperature=0.7), max_new_tokens=10, seed=11)
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, out.tokens, strict=True)):

        def draw(logits, step, row=row):
            return int(kernels.draw(logits[None], temperature=0.7, seed=11, rows=[row], step=step)[0][0])

        assert tokens == plain_loop(proto, prompt, draw, 10)


def test_logprobs_are_the_models_own(lstm):
    proto = build.recurrent("LSTM", layers=2, scale=0.7, seed=3)
    out = decode(lstm, PROMPTS, Sample(temperature=3.0), max_new_tokens=8, seed=1)
    for prompt, h in zip(PROMPTS, out, strict=True):
        logits = build.whole_run(proto, [prompt + h.tokens])[0, len(prompt) - 1 : -1].astype(np.float64)
        expected = logits[np.arange(8), h.tokens] - np.log(np.exp(logits).sum(-1))
        np.testing.assert_allclose(h.token_logprobs, expected, atol=1e-5)
        assert h.logprob == pytest.approx(expected.sum(), abs=1e-4)


@pytest.mark.parametrize("eos", [None, 3])
def test_tokens_do_not_depend_on_the_batch(lstm, eos):
    options = {"max_new_tokens": 40, "seed": 5, "num_return_sequences": 7, "eos_token_id": eos}

    def run(size):
        return decode(lstm, PROMPTS, Sample(), batch_size=size, **options).tokens

    one = run(1)
    assert run(7) == one
    assert run(64) == one
    assert run(None) == one


@given(st.permutations(range(8)), st.integers(1, 9), st.integers(0, 2**64 - 1))
@settings(max_examples=25, deadline=None)
def test_the_order_of_prompts_does_not_matter_on_equal_logits(order, batch_size, seed):
    model = unigram_model()
    prompts = [[p % 4] * (1 + p) for p in range(8)]
    straight = decode(model, prompts, Sample(), max_new_tokens=15, seed=seed, eos_token_id=2, batch_size=3).tokens
    shuffled = decode(
        model,
        [prompts[i] for i in order],
        Sample(),
        max_new_tokens=15,
        seed=seed,
        eos_token_id=2,
        batch_size=batch_size,
    ).tokens
    assert shuffled == straight


def unigram_model(logits=(0.3, 0.1, -0.5, 0.2)):
    return load(build.unigram(logits))


def test_sampled_tokens_follow_the_distribution():
    p = np.array([0.8, 0.15, 0.05])
    model = unigram_model(np.log(p))
    out = decode(model, [[0]] * 50, Sample(), max_new_tokens=400, seed=2)
    counts = np.bincount(np.concatenate(out.tokens), minlength=3)
    expected = p * counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < -2 * math.log(1e-6)  # chi-square with two degrees of freedom, p > 1e-6


def test_different_seeds_and_outputs_differ(lstm):
    many = decode(lstm, [1], Sample(), max_new_tokens=20, seed=1, num_return_sequences=20)
    assert len({tuple(t) for t in many.tokens}) == 20
    assert (
        decode(lstm, [1], Sample(), max_new_tokens=20, seed=2).tokens
        != decode(lstm, [1], Sample(), max_new_tokens=20, seed=1).tokens
    )
    assert (
        decode(lstm, [1], Sample(), max_new_tokens=20).tokens != decode(lstm, [1], Sample(), max_new_tokens=20).tokens
    )


def test_outputs_of_a_prompt_come_best_first(lstm):
    out = decode(lstm, PROMPTS, Sample(), max_new_tokens=6, seed=1, num_return_sequences=5)
    assert len(out) == 5 * len(PROMPTS)
    for index, group in enumerate(out.by_prompt()):
        assert [h.prompt_index for h in group] == [index] * 5
        assert [h.rank for h in group] == list(range(5))
        assert [h.score for h in group] == sorted((h.score for h in group), reverse=True)


def test_eos_ends_a_sequence_and_is_left_out(lstm):
    free = decode(lstm, PROMPTS, Sample(), max_new_tokens=30, seed=9, eos_token_id=None)
    ended = decode(lstm, PROMPTS, Sample(), max_new_tokens=30, seed=9, eos_token_id=[3, 7])
    for a, b in zip(free, ended, strict=True):
        stops = [i for i, t in enumerate(a.tokens) if t in (3, 7)]
        if stops:
            assert b.tokens == a.tokens[: stops[0]]
            assert b.finish_reason == "eos"
            assert len(b.token_logprobs) == stops[0] + 1
        else:
            assert (b.tokens, b.finish_reason) == (a.tokens, "length")
        assert b.logprob == pytest.approx(float(b.token_logprobs.sum()), abs=1e-4)
    assert {h.finish_reason for h in ended} == {"eos", "length"} or all(h.finish_reason == "eos" for h in ended)


def test_the_models_eos_and_bos_are_the_defaults():
    model = load(build.recurrent(seed=1, metadata={"decoding.bos": 4, "decoding.eos": 2, "decoding.max_new_tokens": 9}))
    assert decode(model, None, Sample(), seed=3).tokens == decode(model, [4], Sample(), seed=3, eos_token_id=2).tokens
    assert all(len(t) <= 9 for t in decode(model, [[1]] * 9, Sample(), seed=3).tokens)


def test_a_path_may_stand_for_the_model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(build.recurrent().SerializeToString())
    assert decode(path, [1], max_new_tokens=3).tokens == decode(load(path), [1], max_new_tokens=3).tokens


def test_stream_gives_what_decode_gives(lstm):
    options = {"max_new_tokens": 15, "seed": 3, "eos_token_id": 2, "num_return_sequences": 2, "batch_size": 3}
    found = {}
    for event in stream(lstm, PROMPTS, Sample(), **options):
        found.setdefault((event.prompt_index, event.output_index), []).append(event)
    out = decode(lstm, PROMPTS, Sample(), **options)
    streamed = sorted(tuple(e.token for e in events if e.finish_reason != "eos") for events in found.values())
    assert streamed == sorted(map(tuple, out.tokens))
    for events in found.values():
        assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].finish_reason in ("eos", "length")


def test_a_stream_that_is_dropped_leaves_the_model_usable(lstm):
    events = stream(lstm, [1], Sample(), max_new_tokens=50, seed=1)
    first = [next(events).token for _ in range(5)]
    events.close()
    assert decode(lstm, [1], Sample(), max_new_tokens=5, seed=1).tokens == [first]


def test_one_model_serves_several_threads(lstm):
    expected = decode(lstm, PROMPTS, Sample(), max_new_tokens=30, seed=8).tokens
    results = [None] * 4

    def work(i):
        results[i] = decode(lstm, PROMPTS, Sample(), max_new_tokens=30, seed=8).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [expected] * 4


def test_the_shipped_model_writes_like_shakespeare():
    text = decode("shakespeare", "ROMEO:", Sample(temperature=0.5), max_new_tokens=600, seed=1)[0].text
    words = [w.strip(".,:;!?'-").lower() for w in text.split()]
    common = {
        "the",
        "and",
        "to",
        "of",
        "i",
        "you",
        "my",
        "a",
        "that",
        "is",
        "in",
        "not",
        "me",
        "it",
        "be",
        "with",
        "your",
        "for",
        "his",
        "this",
        "thou",
        "will",
    }
    assert sum(w in common for w in words) > len(words) / 5
    assert "\n" in text


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Greedy(), Sample()])
@pytest.mark.parametrize(("value", "what"), [(math.nan, "NaN"), (math.inf, r"\+inf")])
def test_bad_logits_name_the_sequence_and_the_step(strategy, value, what):
    # The bad value sits in the embedding of id 5, so only a sequence that meets id 5 goes wrong.
    proto = build.recurrent("GRU", seed=1, hidden=4)
    table = next(t for t in proto.graph.initializer if t.name == "bias")
    bias = np.frombuffer(table.raw_data, np.float32).copy()
    bias[5] = value
    table.raw_data = bias.tobytes()
    model = load(proto, verify=False)
    with pytest.raises(
        DecodeError,
        match=rf"sequence 0, step 0: the model's logits hold an? {what}|sequence 0, step 0: the model's logits hold {what}",
    ) as caught:
        decode(model, [[1], [2]], strategy)
    assert (caught.value.row, caught.value.step) == (0, 0)


def test_a_row_with_every_token_forbidden():
    model = load(build.unigram([-math.inf] * 4), verify=False)
    with pytest.raises(DecodeError, match=r"sequence 0, step 0: .*all -inf"):
        decode(model, [1], Sample())
