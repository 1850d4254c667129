"""decoding/engine/beam.py: beam search against exhaustive search, a plain reference and Hugging Face's stored outputs."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Beam, Greedy, OptionError, decode, load, score
from tests.helpers import build

STORED = json.loads((Path(__file__).parents[2] / "models" / "beam_huggingface.json").read_text())


def small(seed, vocab=4, cell="GRU"):
    return load(build.recurrent(cell, vocab=vocab, hidden=4, seed=seed, scale=2.0))


def every_sequence(vocab, eos, longest):
    """All outputs: those that end by EOS, and those of full length."""
    for length in range(1, longest + 1):
        for tokens in itertools.product(range(vocab), repeat=length):
            inner_eos = eos in tokens[:-1]
            if not inner_eos and (tokens[-1] == eos or length == longest):
                yield tokens


@given(
    seed=st.integers(0, 10_000),
    length_penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    cell=st.sampled_from(["LSTM", "GRU", "RNN"]),
)
@settings(max_examples=15, deadline=None)
def test_beams_that_cover_every_prefix_find_what_exhaustive_search_finds(seed, length_penalty, cell):
    vocab, eos, longest = 3, 2, 4
    model = small(seed, vocab, cell)
    outputs = list(every_sequence(vocab, eos, longest))
    logprobs = score(model, [[0, *tokens] for tokens in outputs])
    expected = {
        tokens: float(np.nansum(lp.astype(np.float64)[1:])) / len(tokens) ** length_penalty
        for tokens, lp in zip(outputs, logprobs, strict=True)
    }
    best = sorted(expected.values(), reverse=True)[:5]
    beam = Beam(num_beams=81, length_penalty=length_penalty, early_stopping="never")
    found = decode(model, [0], beam, max_new_tokens=longest, eos_token_id=eos, num_return_sequences=5)
    np.testing.assert_allclose([h.score for h in found], best, atol=1e-4)
    for h in found:
        tokens = (*h.tokens, eos) if h.finish_reason == "eos" else tuple(h.tokens)
        assert h.score == pytest.approx(expected[tokens], abs=1e-4)
        assert h.logprob == pytest.approx(h.score * len(tokens) ** length_penalty, abs=1e-4)


def test_one_beam_is_greedy():
    model = small(3, 11)
    prompts = [[1], [2, 3], [4]]
    beam = decode(model, prompts, Beam(num_beams=1), max_new_tokens=12, eos_token_id=None)
    assert beam.tokens == decode(model, prompts, Greedy(), max_new_tokens=12, eos_token_id=None).tokens


@pytest.mark.parametrize(
    "case", STORED["cases"], ids=lambda c: f"{c['num_beams']}-{c['length_penalty']}-{c['early_stopping']}"
)
def test_hypotheses_equal_hugging_faces(case):
    """tests/models/make_beam_huggingface.py made these with transformers' generate() on the same network."""
    model = load(Path(__file__).parents[2] / "models" / "beam_huggingface.onnx")
    beam = Beam(
        num_beams=case["num_beams"], length_penalty=case["length_penalty"], early_stopping=case["early_stopping"]
    )
    out = decode(
        model,
        STORED["prompts"],
        beam,
        max_new_tokens=STORED["max_new_tokens"],
        eos_token_id=STORED["eos"],
        num_return_sequences=case["num_beams"],
    )
    assert out.tokens == case["tokens"]
    if case["scores"] is not None:  # one beam is greedy search there, which gives no score
        np.testing.assert_allclose(out.scores, case["scores"], atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 6, 13, 64])
def test_results_do_not_depend_on_how_many_prompts_run_together(batch_size):
    model = small(5, 9)
    prompts = [[i % 9, (3 * i) % 9][: 1 + i % 2] for i in range(11)]
    options = {"max_new_tokens": 10, "eos_token_id": 0, "num_return_sequences": 3}
    expected = [decode(model, p, Beam(num_beams=3), **options) for p in prompts]
    found = decode(model, prompts, Beam(num_beams=3), batch_size=batch_size, **options).by_prompt()
    assert [[h.tokens for h in group] for group in found] == [e.tokens for e in expected]


def test_groups_are_driven_apart():
    model = small(8, 12)
    plain = decode(model, [1], Beam(num_beams=4), max_new_tokens=6, num_return_sequences=4)
    diverse = decode(
        model,
        [1],
        Beam(num_beams=4, num_beam_groups=4, diversity_penalty=50.0),
        max_new_tokens=6,
        num_return_sequences=4,
    )
    assert len({h.tokens[0] for h in diverse}) == 4
    assert len({h.tokens[0] for h in plain}) < 4


def test_min_new_tokens_and_processors_see_log_probabilities():
    model = small(2, 6)
    out = decode(
        model,
        [1],
        Beam(num_beams=3),
        max_new_tokens=8,
        min_new_tokens=5,
        eos_token_id=[0, 2, 4],
        num_return_sequences=3,
    )
    assert all(len(h.token_logprobs) >= 5 for h in out)
    seen = []
    decode(
        model,
        [1],
        Beam(num_beams=2),
        max_new_tokens=2,
        processors=[lambda history, rows: seen.append(np.exp(rows).sum(1))],
    )
    for sums in seen:
        np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_a_stop_sequence_closes_a_hypothesis():
    model = small(4, 5)
    free = decode(model, [1], Beam(num_beams=1), max_new_tokens=6, eos_token_id=None)[0].tokens
    (stopped,) = decode(model, [1], Beam(num_beams=1), max_new_tokens=6, eos_token_id=None, stop=[free[:3]])
    assert (stopped.tokens, stopped.finish_reason) == (free[:3], "stop")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beams": 0}, r"Beam\(num_beams=0\): expected a whole number of at least 1"),
        ({"num_beams": 4, "num_beam_groups": 3}, r"num_beam_groups=3\): expected a divisor of num_beams=4"),
        ({"diversity_penalty": 1.0}, r"diversity_penalty=1.0\): one group has no other"),
        ({"length_penalty": float("nan")}, r"length_penalty=nan\): expected a finite number"),
        ({"early_stopping": "always"}, r"early_stopping='always'\): expected True, False or 'never'"),
    ],
)
def test_wrong_fields_fail_when_the_strategy_is_made(fields, message):
    with pytest.raises(OptionError, match=message):
        Beam(**fields)


def test_more_outputs_than_beams():
    with pytest.raises(OptionError, match=r"num_return_sequences=3: more than the num_beams=2 hypotheses"):
        decode(small(1), [1], Beam(num_beams=2), num_return_sequences=3)
