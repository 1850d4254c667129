"""engine/device.py on the CPU provider: a device's batches choose what the CPU's choose, whatever is done with their rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import (
    Beam,
    DecodeError,
    Greedy,
    OptionError,
    RepetitionPenalty,
    Sample,
    TopN,
    decode,
    decode_iter,
    load,
    score,
    stream,
)
from decoding.engine.batch import device, reduction
from decoding.engine.batch.batch import make_batch
from decoding.engine.batch.device import DeviceBatch, slots_for
from decoding.engine.batch.host import HostBatch
from decoding.inputs.options import make_call
from decoding.model.network import Network
from decoding.model.runtime.session import Binding
from tests.helpers import build
from tests.helpers.exports import fixture, outcome, system, system_names

STRATEGIES = [
    Greedy(),
    TopN(3),
    Sample(temperature=0.8),
    Sample(top_k=5, top_p=0.9, temperature=1.3),
    Sample(top_p=0.8),
    Sample(replacement=False),
    Beam(num_beams=4),
    Beam(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
]
VOCAB = 300


@pytest.fixture(scope="module")
def models():
    """Of each cell: hidden states, two layers, and wide enough to be folded in one case."""
    # The wide one has small weights: with scale 0.7 it is chaotic, and rounding grows a hundredfold within 24 tokens.
    hidden, scale = {"LSTM": 130}, {"LSTM": 0.3}
    return {
        cell: load(
            build.recurrent(
                cell, layers=2, vocab=VOCAB, hidden=hidden.get(cell, 9), scale=scale.get(cell, 0.7), seed=3
            ),
            threads=1,
        )
        for cell in build.CELLS
    }


@pytest.fixture
def on_device(monkeypatch):
    """Makes every model one on a device (whose memory is the CPU's), its logits reduced wherever that can be."""
    monkeypatch.setattr(reduction, "LEAST_BYTES", 0)

    def switch(on=True):
        monkeypatch.setattr(Network, "on_device", property(lambda self: on))

    switch()
    return switch


def both(on_device, run):
    """What `run` gives on a device and on the CPU."""
    found = run()
    on_device(False)
    return found, run()


def assert_same(found, expected):
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-4)
    for a, b in zip(found, expected, strict=True):
        assert a.finish_reason == b.finish_reason
        np.testing.assert_allclose(a.token_logprobs, b.token_logprobs, atol=1e-4)


@pytest.mark.parametrize("cell", build.CELLS)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_strategy_chooses_what_it_chooses_on_the_cpu(models, on_device, cell, strategy):
    """Prompts of unequal lengths, several outputs, more of them than places, sequences that end at different times."""
    prompts = [[1], [5, 9, 2, 7, 7, 3], [4, 4], list(range(20)), [8]]
    options = {"max_new_tokens": 12, "eos_token_id": [3, 17, 40, 41], "seed": 5, "batch_size": 5, "workers": 1,
               "num_return_sequences": 1 if isinstance(strategy, Greedy) else 3}  # fmt: skip
    assert isinstance(make_batch(models[cell]._network, 3, make_call(models[cell], Greedy())), DeviceBatch)
    found, expected = both(on_device, lambda: decode(models[cell], prompts, strategy, **options))
    assert isinstance(make_batch(models[cell]._network, 3, make_call(models[cell], Greedy())), HostBatch)
    assert_same(found, expected)


@settings(max_examples=40, deadline=None, derandomize=True)  # a draw in 1e5 hangs on how sums are rounded
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    batch_size=st.integers(1, 12),
    strategy=st.sampled_from(STRATEGIES),
    cell=st.sampled_from(build.CELLS),
    seed=st.integers(0, 1000),
)
def test_any_prompts_and_places(models, lengths, batch_size, strategy, cell, seed):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCAB, n).tolist() for n in lengths]
    options = {"max_new_tokens": 7, "eos_token_id": list(range(0, VOCAB, 9)), "seed": seed, "batch_size": batch_size,
               "num_return_sequences": 1 if strategy == Greedy() else 2, "workers": 1}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        expected = decode(models[cell], prompts, strategy, **options)
        patch.setattr(reduction, "LEAST_BYTES", 0)
        patch.setattr(Network, "on_device", True)
        assert_same(decode(models[cell], prompts, strategy, **options), expected)


@pytest.mark.parametrize("cell", build.CELLS)
def test_without_leaps_prompts_are_read_by_steps(models, on_device, monkeypatch, cell):
    """As on CUDA, where a peephole LSTM has no kernel for sequences."""
    monkeypatch.setattr(Network, "reads_chunks_on_device", False)
    monkeypatch.setattr(models[cell]._network.session, "run", None)
    for strategy in (Greedy(), Beam(num_beams=3), Sample(replacement=False)):
        found = decode(models[cell], [[1, 2, 3, 4, 5], [6]], strategy, max_new_tokens=6, eos_token_id=None, seed=1,
                       num_return_sequences=2 if strategy != Greedy() else 1, workers=1)  # fmt: skip
        with monkeypatch.context() as patch:
            patch.undo()
            expected = decode(models[cell], [[1, 2, 3, 4, 5], [6]], strategy, max_new_tokens=6, eos_token_id=None, seed=1,
                              num_return_sequences=2 if strategy != Greedy() else 1, workers=1)  # fmt: skip
        assert_same(found, expected)


def test_what_looks_at_all_logits_gets_them(models, on_device):
    """Processors, min_new_tokens, logprobs=, a teacher, streams and scores."""
    model = models["GRU"]
    options = {"max_new_tokens": 8, "eos_token_id": list(range(60)), "seed": 2}
    runs = [
        lambda: decode(model, [[1], [2, 3]], Sample(), processors=[RepetitionPenalty(1.3)], **options),
        lambda: decode(model, [[1], [2, 3]], Greedy(), min_new_tokens=4, **options),
        lambda: decode(model, [[1], [2, 3]], Sample(), logprobs=3, **options),
        lambda: decode(model, [[1], [2, 3]], Greedy(), teacher=[[5, 6, 7], [8]], teacher_ratio=0.5, **options),
    ]
    found = [run() for run in runs]
    streamed = [(e.prompt_index, e.token) for e in stream(model, [[1], [2, 3]], Sample(), **options)]
    scores = score(model, [[1, 2, 3, 4], [5, 6]])
    on_device(False)
    for mine, run in zip(found, runs, strict=True):
        assert_same(mine, run())
    assert streamed == [(e.prompt_index, e.token) for e in stream(model, [[1], [2, 3]], Sample(), **options)]
    for a, b in zip(scores, score(model, [[1, 2, 3, 4], [5, 6]]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("strategy", [Greedy(), TopN(4), Sample(top_k=4), Beam(num_beams=3)], ids=str)
def test_among_equal_logits_the_lowest_ids_win(on_device, strategy):
    """A device's TopK need not know that rule: the ties at the end of what came down are looked up."""
    logits = np.repeat(np.float32([0, 2, 1, 2, 2]), 60)
    model = load(build.unigram(logits), threads=1)
    found, expected = both(on_device, lambda: decode(model, [[0]] * 3, strategy, max_new_tokens=5, eos_token_id=None, seed=3))  # fmt: skip
    assert_same(found, expected)
    assert all(60 <= token < 68 for tokens in found.tokens for token in tokens)


def test_ties_are_looked_up_whatever_the_devices_order_is(on_device, monkeypatch):
    """The same where the device's TopK gives the highest ids among equals."""
    read = device.DeviceArray.read
    logits = np.repeat(np.float32([0, 2, 1, 2, 2]), 60)
    model = load(build.unigram(logits), threads=1)

    def perverse(self):
        array = read(self)
        if array.dtype == np.float64:  # the choice: logits, ids, normalizer
            array = array.copy()
            array[:, array.shape[1] // 2 : -1] = 299 - np.arange(array.shape[1] // 2)
        return array

    monkeypatch.setattr(device.DeviceArray, "read", perverse)
    out = decode(model, [[0]] * 3, Greedy(), max_new_tokens=5, eos_token_id=None)
    assert out.tokens == [[60] * 5] * 3


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Sample(top_k=3), Beam(num_beams=2)], ids=str)
@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "inf")])
def test_rows_that_cannot_be_drawn_from_end_the_job(on_device, strategy, value, message):
    logits = np.zeros(300, np.float32)
    logits[7] = value
    model = load(build.unigram(logits), threads=1, verify=False)
    with pytest.raises(DecodeError, match=message):
        decode(model, [[0]] * 2, strategy, max_new_tokens=5, eos_token_id=None, seed=1)


MODELS = Path(__file__).parents[2] / "models"
VECTORS = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
SEARCHES = [Greedy(), Sample(), Beam(num_beams=3), Sample(replacement=False)]


@pytest.mark.parametrize("strategy", SEARCHES, ids=str)
def test_contexts_follow_their_rows(on_device, strategy):
    model = load(MODELS / "torch_legacy_gru_context.onnx", threads=1)
    prompts = [[1, 2, 3], [4], [1, 2, 3], [5, 6]] * 5
    options = {"max_new_tokens": 7, "eos_token_id": [0, 3], "seed": 2, "batch_size": 7, "context": VECTORS,
               "num_return_sequences": 1 if strategy == Greedy() else 2}  # fmt: skip
    assert_same(*both(on_device, lambda: decode(model, prompts, strategy, **options)))


@pytest.mark.parametrize("reads_chunks", [True, False])
@pytest.mark.parametrize("strategy", SEARCHES, ids=str)
def test_a_context_that_is_anew_at_every_step(on_device, strategy, reads_chunks, monkeypatch):
    monkeypatch.setattr(Network, "reads_chunks_on_device", reads_chunks)
    model = load(MODELS / "torch_legacy_gru_context.onnx", threads=1)

    def last_three(history):
        return {"context": np.array([np.resize(ids, 3) if len(ids) < 3 else ids[-3:] for ids in history]) / 4}

    options = {"max_new_tokens": 6, "seed": 2, "batch_size": 3, "step_inputs": last_three,
               "num_return_sequences": 1 if strategy == Greedy() else 2}  # fmt: skip
    assert_same(*both(on_device, lambda: decode(model, [[1, 2, 3], [4], [5, 6]], strategy, **options)))


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(num_beams=3, coverage_penalty=0.5)], ids=str)
def test_attention_comes_down_with_the_tokens(on_device, strategy):
    model = load(MODELS / "torch_dynamo_attention.onnx", threads=1)
    (aux,) = [f for f in model._network.contract.contexts if len(f.sizes) == 2]
    source = np.random.default_rng(0).normal(size=(3, 6, aux.sizes[1])).astype(np.float32)
    options = {"max_new_tokens": 6, "eos_token_id": None, "seed": 2, "context": {aux.name: source}, "return_attention": True}  # fmt: skip
    found, expected = both(on_device, lambda: decode(model, [[1, 2], [3], [4, 5, 6]], strategy, **options))
    assert_same(found, expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.attention, b.attention, atol=1e-5)


@pytest.mark.parametrize("name", system_names())
@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(num_beams=3)], ids=str)
def test_encoders_feed_contexts_and_first_states(on_device, name, strategy):
    """Sources of unequal lengths: contexts are padded, and grow while others write."""
    model, sources, _, _, attention = system(name)
    options = {"max_new_tokens": 7, "eos_token_id": [3], "seed": 2, "batch_size": 4, "prefix": [2], "workers": 1,
               "return_attention": attention is not None}  # fmt: skip
    found, expected = both(on_device, lambda: decode(model, [*sources] * 3, strategy, **options))
    assert_same(found, expected)
    if attention is not None:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.attention, b.attention, atol=1e-5)


@pytest.mark.parametrize("every", ["sequence", "step"])
@pytest.mark.parametrize("strategy", SEARCHES, ids=str)
def test_latents_are_those_of_the_cpu(on_device, every, strategy):
    roles = {"latent": {"context": {"distribution": "normal", "every": every}}}
    model = load(MODELS / "torch_legacy_gru_context.onnx", threads=1, roles=roles)
    options = {"max_new_tokens": 6, "eos_token_id": None, "seed": 2, "batch_size": 4}
    assert_same(*both(on_device, lambda: decode(model, [[1, 2, 3], [4], [5, 6]], strategy, **options)))


@pytest.mark.parametrize("name", ["torch_legacy_gru_step_position", "torch_dynamo_lstm_position", "torch_legacy_lstm_lengths", "torch_legacy_lstm_mask"])  # fmt: skip
@pytest.mark.parametrize("strategy", SEARCHES, ids=str)
def test_positions_lengths_and_masks(on_device, name, strategy):
    _, _, roles = fixture(name)
    model, _ = outcome(name, roles)
    options = {"max_new_tokens": 6, "eos_token_id": [2], "seed": 2, "batch_size": 4,
               "num_return_sequences": 1 if strategy == Greedy() else 2}  # fmt: skip
    prompts = [[1, 2, 3], [4], [5, 0, 1, 1, 3], [5]]
    assert_same(*both(on_device, lambda: decode(model, prompts, strategy, workers=1, **options)))


def test_several_workers_would_wait_for_each_other(models, on_device):
    with pytest.raises(OptionError, match=r"workers=2: expected 1 on a GPU"):
        decode(models["RNN"], [[1]], workers=2)
    with pytest.raises(OptionError, match=r"workers=2: expected 1 on a GPU"):
        list(decode_iter(models["RNN"], [[1]], workers=2))


def test_slots():
    assert [slots_for(n) for n in (1, 2, 3, 33, 64, 65, 1000)] == [1, 2, 4, 64, 64, 128, 1024]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_step_may_run_more_than_once(models, on_device, monkeypatch, strategy):
    """As the first run of a CUDA graph does, to allocate and to capture: nothing that is read was written."""
    once = Binding.run

    def thrice(self):
        for _ in range(3):
            once(self)

    options = {"max_new_tokens": 8, "eos_token_id": [3, 17], "seed": 5, "batch_size": 5,
               "num_return_sequences": 1 if isinstance(strategy, Greedy) else 3}  # fmt: skip
    monkeypatch.setattr(Binding, "run", thrice)
    found = decode(models["LSTM"], [[1], [5, 9, 2], [4, 4]], strategy, **options)
    monkeypatch.setattr(Binding, "run", once)
    on_device(False)
    assert_same(found, decode(models["LSTM"], [[1], [5, 9, 2], [4, 4]], strategy, **options))


def test_buffers_are_used_again(models, on_device):
    model = models["RNN"]
    decode(model, [[1], [2]], Greedy(), max_new_tokens=3, eos_token_id=None)
    (step,) = [s for r, s in model._network._device_steps._made.items() if r is not None and r.count == 2]
    held = {key: [id(b) for b in idle] for key, idle in step.idle.items()}
    decode(model, [[3], [4], [5]][:2], Greedy(), max_new_tokens=3, eos_token_id=None)
    assert {key: [id(b) for b in idle] for key, idle in step.idle.items()} == held


def test_contexts_of_ever_other_shapes_do_not_pile_up(on_device):
    model = load(MODELS / "torch_dynamo_attention.onnx", threads=1)
    (aux,) = [f for f in model._network.contract.contexts if len(f.sizes) == 2]
    for length in range(1, 25):
        source = np.random.default_rng(0).normal(size=(2, length, aux.sizes[1])).astype(np.float32)
        options = {"max_new_tokens": 3, "eos_token_id": None, "context": {aux.name: source}}
        assert_same(*both(on_device, lambda: decode(model, [[1, 2], [3]], **options)))  # noqa: B023
        on_device()
    held = [buffers for idle in model._network.device_step(None).idle.values() for buffers in idle]
    held += [
        buffers
        for step in model._network._device_steps._made.values()
        for idle in step.idle.values()
        for buffers in idle
    ]
    assert all(len(buffers._bound) <= 16 for buffers in held)


def test_a_stream_that_is_left_and_an_endless_one(models, on_device):
    model = models["LSTM"]
    events = stream(model, [1], Sample(), max_new_tokens=50, eos_token_id=None, seed=1)
    assert next(events).token < VOCAB
    events.close()
    found = [h.tokens for h in decode_iter(model, ([i % 9, 1] for i in range(20)), Sample(), max_new_tokens=4, eos_token_id=None, seed=1, batch_size=6)]  # fmt: skip
    on_device(False)
    assert found == [h.tokens for h in decode_iter(model, ([i % 9, 1] for i in range(20)), Sample(), max_new_tokens=4, eos_token_id=None, seed=1, batch_size=6)]  # fmt: skip
