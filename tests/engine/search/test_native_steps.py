"""Whole steps of a native network without Python: what they give, when they return, and who runs meanwhile."""

import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import DecodeError, Greedy, Sample, TopN, decode, decode_iter, stream
from decoding.engine.search import sampling
from decoding.engine.search.native_steps import NativeSteps
from tests.helpers.native import native_models, outputs, some_ends, some_prompts

STRATEGIES = [
    Greedy(), Sample(), Sample(temperature=0.6), Sample(top_k=3), Sample(top_k=40, temperature=1.7), Sample(top_p=0.7),
    Sample(min_p=0.05, top_k=20), Sample(typical_p=0.8), TopN(4),
]  # fmt: skip
VOCABULARIES = [37, 300, 8200]  # one block of logits; several; more than a draw keeps


@pytest.fixture(scope="module")
def models():
    return native_models(VOCABULARIES)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equal_the_steps_one_by_one_bit_for_bit(models, data):
    vocab = data.draw(st.sampled_from(VOCABULARIES), label="vocab")
    model = models[vocab, data.draw(st.sampled_from(["LSTM", "GRU"])), data.draw(st.sampled_from([None, "int8"]))]
    strategy = data.draw(st.sampled_from(STRATEGIES), label="strategy")
    prompts = some_prompts(data, vocab, 90)
    options = {
        **some_ends(data, vocab, [[[5]], [[1, 2], list(range(30)), [4]]]),
        "batch_size": data.draw(st.integers(1, 70)),
        "num_return_sequences": 1 if isinstance(strategy, Greedy) else data.draw(st.integers(1, 3)),
        "seed": 5,
    }
    found = outputs(model, prompts, strategy, **options, workers=data.draw(st.integers(1, 3)))
    # logprobs= needs the logits of every step, so those steps are taken one by one
    assert found == outputs(model, prompts, strategy, **options, workers=1, logprobs=1)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_many_steps_are_one_call(models, monkeypatch, strategy):
    calls = []

    class Counted(NativeSteps):
        def take(self, most):
            calls.append(most)
            return super().take(most)

    monkeypatch.setattr(sampling, "NativeSteps", Counted)
    options = {"max_new_tokens": 2000, "eos_token_id": None, "seed": 5}
    outputs(models[37, "GRU", None], [[1]], strategy, **options)
    assert 1 <= len(calls) < 500  # a call takes 10 ms, thousands of steps, but a busy machine may hold it up
    calls.clear()
    outputs(models[37, "GRU", None], [[1]], strategy, **options, logprobs=1)
    assert not calls


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_equal_a_stream_which_returns_after_each_step(models, strategy):
    model, seed = models[300, "LSTM", None], {} if isinstance(strategy, Greedy) else {"seed": 5}
    options = {"max_new_tokens": 30, "eos_token_id": 0, "batch_size": 3, **seed}
    prompts = [[1, 2], [3], [4, 5, 6], [7]]
    events = list(stream(model, prompts, strategy, **options))
    for h in decode(model, prompts, strategy, **options):
        own = [e for e in events if e.prompt_index == h.prompt_index]
        assert [e.token for e in own][: len(h.ids)] == h.ids.tolist()
        assert own[-1].finish_reason == h.finish_reason
        np.testing.assert_array_equal(np.array([e.logprob for e in own], np.float32), h.token_logprobs)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Sample(top_k=5)], ids=str)
def test_a_fault_is_that_of_the_steps_one_by_one(models, strategy):
    model = models[37, "LSTM", None]
    table = np.random.default_rng(0).uniform(-1, 1, (37, 21)).astype(np.float32)
    table[5:9] = np.nan
    faulty = model.with_weights({"table": table})

    def fault(**options):
        with pytest.raises(DecodeError, match="the model's logits hold a NaN") as caught:
            outputs(
                faulty,
                [[i] for i in (1, 2, 3, 4, 10)],
                strategy,
                max_new_tokens=200,
                eos_token_id=None,
                workers=1,
                seed=5,
                **options,
            )
        return str(caught.value), caught.value.row, caught.value.step

    assert fault() == fault(logprobs=1)
    assert fault()[2] > 0


def test_what_finished_before_a_fault_comes_first(models):
    table = np.random.default_rng(0).uniform(-1, 1, (37, 21)).astype(np.float32)
    table[5] = np.nan
    faulty = models[37, "LSTM", None].with_weights({"table": table})

    def finished(seed, **options):
        found, results = [], decode_iter(
            faulty, [[i % 4] for i in range(16)], Sample(), seed=seed, max_new_tokens=200, eos_token_id=[1, 2], batch_size=16,
            workers=1, **options,
        )  # fmt: skip
        with pytest.raises(DecodeError) as caught:
            found.extend((h.prompt_index, h.ids.tolist()) for h in results)
        return sorted(found), str(caught.value)

    for seed in range(8):
        assert finished(seed) == finished(seed, logprobs=1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends a signal")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_a_long_call_at_once(models, workers):
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):  # 5,000,000 steps would take more than ten seconds
            decode(models[300, "LSTM", None], [[1], [2]], Greedy(), max_new_tokens=5_000_000, eos_token_id=None,
                   batch_size=1, workers=workers)  # fmt: skip
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - start < 3


def test_other_threads_run_meanwhile(models):
    counted, done = [], threading.Event()

    def count():
        while not done.is_set():
            counted.append(time.perf_counter())

    thread = threading.Thread(target=count)
    thread.start()
    start = time.perf_counter()
    decode(models[300, "LSTM", None], [[1]], Greedy(), max_new_tokens=50_000, eos_token_id=None)
    end = time.perf_counter()
    done.set()
    thread.join()
    longest = np.diff([start, *(t for t in counted if start < t < end), end]).max()
    assert longest < (end - start) / 2
