"""Whole steps of beam search on a native network without Python: they give what the steps one by one give."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoding import Beam, DecodeError, decode
from decoding.engine.search.beam import BeamSearch
from tests.helpers.native import native_models, outputs, some_ends, some_prompts

STRATEGIES = [
    Beam(num_beams=1), Beam(num_beams=2, length_penalty=0.0), Beam(num_beams=5), Beam(num_beams=4, early_stopping=True),
    Beam(num_beams=3, early_stopping="never", length_penalty=1.4), Beam(num_beams=6, num_beam_groups=3, diversity_penalty=0.5),
]  # fmt: skip
VOCABULARIES = [3, 37, 600]


@pytest.fixture(scope="module")
def models():
    return native_models(VOCABULARIES)


def one_by_one(monkeypatch):
    monkeypatch.setattr(BeamSearch, "_native_beams", lambda self: None)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_equal_the_steps_one_by_one_bit_for_bit(models, data):
    vocab = data.draw(st.sampled_from(VOCABULARIES), label="vocab")
    model = models[vocab, data.draw(st.sampled_from(["LSTM", "GRU"])), data.draw(st.sampled_from([None, "int8"]))]
    strategy = data.draw(st.sampled_from(STRATEGIES), label="strategy")
    prompts = some_prompts(data, vocab, 25)
    options = {
        **some_ends(data, vocab, [[[1]], [[1, 2], [0, 1, 2]]]),
        "batch_size": data.draw(st.integers(1, 70)),
        "num_return_sequences": data.draw(st.integers(1, strategy.num_beams)),
    }
    found = outputs(model, prompts, strategy, **options, workers=data.draw(st.integers(1, 3)))
    with pytest.MonkeyPatch.context() as patched:
        one_by_one(patched)
        assert found == outputs(model, prompts, strategy, **options, workers=1)


def test_steps_that_are_plain_are_taken_without_python(models, monkeypatch):
    calls = []
    best = BeamSearch._best_continuations
    monkeypatch.setattr(BeamSearch, "_best_continuations", lambda self: (calls.append(1), best(self))[1])
    decode(models[600, "LSTM", None], [[1], [2]], Beam(num_beams=5), max_new_tokens=200, eos_token_id=None)
    assert len(calls) == 1  # the last step, in which all end by their length


def test_a_fault_is_that_of_the_steps_one_by_one(models, monkeypatch):
    table = np.random.default_rng(0).uniform(-1, 1, (37, 21)).astype(np.float32)
    table[5:12] = np.nan
    model = models[37, "LSTM", None].with_weights({"table": table})

    def fault():
        with pytest.raises(DecodeError) as caught:
            decode(model, [[i] for i in (1, 2, 3, 4, 20)], Beam(num_beams=3), max_new_tokens=200, eos_token_id=None)
        return str(caught.value), caught.value.row, caught.value.step

    found = fault()
    one_by_one(monkeypatch)
    assert found == fault()
