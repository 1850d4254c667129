"""engine/prefill.py: prompts of any length, read while other rows write."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from decoding import Beam, Greedy, Sample, decode, decode_iter, load, stream
from tests.helpers import build

STRATEGIES = [Greedy(), Sample(), Beam(num_beams=3), Sample(replacement=False)]


@pytest.fixture(scope="module")
def models():
    return {cell: load(build.recurrent(cell, layers=2, scale=0.7, seed=3)) for cell in build.CELLS}


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    batch_size=st.integers(1, 12),
    outputs=st.integers(1, 3),
    strategy=st.sampled_from(STRATEGIES),
    cell=st.sampled_from(build.CELLS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_prompts_outputs_are_those_that_it_has_alone(models, lengths, batch_size, outputs, strategy, cell, seed):
    """However many prompts of whatever lengths are read, written and refilled beside it."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 11, n).tolist() for n in lengths]
    options = {
        "max_new_tokens": 6,
        "eos_token_id": 3,
        "seed": seed,
        "num_return_sequences": 1 if strategy == Greedy() else outputs,
    }
    together = decode(models[cell], prompts, strategy, batch_size=batch_size, **options)
    one_by_one = decode(models[cell], prompts, strategy, batch_size=1, **options)
    assert together.tokens == one_by_one.tokens
    np.testing.assert_allclose(together.scores, one_by_one.scores, atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_nobody_waits_for_a_long_prompt(models, strategy):
    """While 2000 tokens are read, the other place goes through 50 prompts; the long one comes last."""
    prompts = [[1] * 2000, *([i % 11, i % 7] for i in range(50))]
    rows = {"Beam": 6, "Sample": 2}.get(type(strategy).__name__, 2)
    found = decode_iter(
        models["LSTM"], prompts, strategy, max_new_tokens=20, eos_token_id=None, seed=1, batch_size=rows
    )
    order = [h.prompt_index for h in found]
    assert sorted(order) == list(range(51))
    assert order[-1] == 0


def test_nobody_waits_for_a_long_prompt_in_the_first_batch(models):
    """The short prompt has all its tokens before the long one has its first, though both start together."""
    events = [e.prompt_index for e in stream(models["GRU"], [[1] * 300, [2]], max_new_tokens=20, eos_token_id=None)]
    assert events == [1] * 20 + [0] * 20


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_prompt_is_read_once_however_many_outputs_it_has(models, outputs, monkeypatch):
    model, read = models["LSTM"], []
    run = model._network.read_session.run

    def counting(feeds, *args, **options):
        read.append(np.size(feeds["tokens"]))
        return run(feeds, *args, **options)

    monkeypatch.setattr(model._network.read_session, "run", counting)
    decode(model, [[1, 2, 3, 4, 5]], Sample(), num_return_sequences=outputs, max_new_tokens=3, batch_size=2, workers=1,
           seed=1)  # fmt: skip
    assert sum(read) == 4


def test_a_prompt_longer_than_a_piece(models):
    prompt = np.random.default_rng(0).integers(0, 11, 1500).tolist()
    out = decode(models["RNN"], [prompt, prompt[:700]], max_new_tokens=5, eos_token_id=None)
    logits = build.whole_run(build.recurrent("RNN", layers=2, scale=0.7, seed=3), [prompt])
    assert out.tokens[0][0] == logits[0, -1].argmax()
    assert out.tokens[1][0] == logits[0, 699].argmax()


def with_positions(longest=64):
    """A GRU whose logits also hang on where in its sequence a token stands."""
    proto = build.recurrent("GRU", exposed=True, seed=8)
    table = np.random.default_rng(1).normal(size=(longest, 11)).astype(np.float32) * 2
    proto.graph.initializer.append(numpy_helper.from_array(table, "places"))
    proto.graph.input.append(helper.make_tensor_value_info("position", TensorProto.INT64, ["batch", "time"]))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Gather", ["places", "position"], ["place"]))
    proto.graph.node.append(helper.make_node("Add", ["before", "place"], ["logits"]))
    return proto


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_rows_stand_at_positions_of_their_own(strategy):
    proto = with_positions()
    model = load(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    prompts = [[1] * 30, [2, 3], [4], list(range(11)), [5] * 9]
    out = decode(model, prompts, strategy, max_new_tokens=8, eos_token_id=0, seed=3, batch_size=6)
    for prompt, h in zip(prompts, out, strict=True):
        ids = np.array([[*prompt, *h.tokens, 0]])
        feeds = {"tokens": ids, "position": np.arange(ids.size)[None], "h0": np.zeros((1, 1, 8), np.float32)}
        logits = session.run(["logits"], feeds)[0][0, len(prompt) - 1 :].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        count = len(h.token_logprobs)
        expected = logprobs[np.arange(count), ids[0, len(prompt) : len(prompt) + count]]
        np.testing.assert_allclose(h.token_logprobs, expected, atol=1e-5)
