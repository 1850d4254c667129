"""What only a GPU can tell: pytest -m cuda. The same graphs run on the CPU in test_device.py and model/test_device.py."""

import threading
from pathlib import Path

import numpy as np
import pytest

from decoding import Beam, Greedy, ModelError, Sample, TopN, decode, decode_iter, load, score, stream
from decoding.engine.batch import reduction
from decoding.kernels import reference
from decoding.model.passes.device_step import Reduction
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence
from tests.helpers import build
from tests.helpers.cuda import needs_cuda
from tests.helpers.exports import fixture, fixtures, outcome

VOCAB, MODELS = 5000, Path(__file__).parents[1] / "models"
STRATEGIES = [Greedy(), TopN(3), Sample(), Sample(top_k=20, top_p=0.9), Sample(top_p=0.9), Sample(replacement=False), Beam(num_beams=4)]  # fmt: skip


@pytest.fixture(scope="module", params=build.CELLS)
def pair(request):
    """The same model on the GPU and on the CPU: hidden states, two layers."""
    proto = build.recurrent(request.param, layers=2, vocab=VOCAB, hidden=64, scale=0.3, seed=3)
    return load(proto, providers="cuda"), load(proto)


@needs_cuda
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_tokens_and_their_log_probabilities_are_the_cpus(pair, strategy, monkeypatch):
    """Logits differ in their last bits, so a few draws may; the log-probabilities of what was drawn are the CPU's own."""
    there, here = pair
    monkeypatch.setattr(reduction, "LEAST_BYTES", 0)
    prompts = [[1], [5, 9, 2, 7, 7, 3], list(range(40)), [8]]
    options = {"max_new_tokens": 20, "eos_token_id": list(range(0, VOCAB, 50)), "seed": 5, "batch_size": 5,
               "num_return_sequences": 1 if isinstance(strategy, Greedy) else 3}  # fmt: skip
    found, expected = decode(there, prompts, strategy, **options), decode(here, prompts, strategy, **options)
    same = [a.tokens == b.tokens for a, b in zip(found, expected, strict=True)]
    assert np.mean(same) > 0.8
    sequences = [[*prompts[h.prompt_index], *h.tokens] for h in found]
    for h, values in zip(found, score(here, sequences), strict=True):
        kept = len(h.tokens)
        if kept:
            np.testing.assert_allclose(h.token_logprobs[:kept], values[-kept:], atol=2e-3)


@needs_cuda
def test_steps_are_captured_as_cuda_graphs_and_no_state_crosses_the_bus(pair):
    there, _ = pair
    assert not there._network.device_step(None).uncaptured
    assert not there._network.device_step(Reduction("draw")).uncaptured
    assert not there._network.device_step(Reduction("best", 5)).uncaptured
    runs = there._network.placement()
    assert not [run for run in runs if run.op.startswith("Memcpy")]
    assert {run.op for run in runs if run.provider != "CUDAExecutionProvider"} <= {"Shape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice"}  # fmt: skip


@needs_cuda
@pytest.mark.parametrize("name", fixtures("step"))
def test_every_export_decodes(name):
    _, _, roles = fixture(name)
    here, _ = outcome(name, roles)
    if here is None or here._network.contract.contexts:
        pytest.skip("refused, or wants a context")
    if here._network.contract.window is not None:
        pytest.skip("run by windows, as test_fixtures.py accepts")
    there = load(MODELS / f"{name}.onnx", roles=roles, providers="cuda")
    prompts = [[1, 2], [0]]
    found = decode(there, prompts, Greedy(), max_new_tokens=6, eos_token_id=None)
    for prompt, h in zip(prompts, found, strict=True):
        logits = equivalence.stepped_run(
            here._network.session, here._network.contract, np.array([prompt + h.tokens[:-1]])
        )[0, len(prompt) - 1 :]
        np.testing.assert_allclose(h.token_logprobs, reference.token_logprobs(logits, h.tokens), atol=2e-2)


@needs_cuda
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_on_the_gpu_are_the_kernels(temperature):
    """On equal logits: the model's are a table, which no product rounds."""
    logits = np.random.default_rng(0).standard_normal(VOCAB).astype(np.float32) * 3
    there = load(build.unigram(logits), providers="cuda")
    out = decode(there, [[0]] * 200, Sample(temperature=temperature), max_new_tokens=20, eos_token_id=None, seed=3, batch_size=200)  # fmt: skip
    for step in range(20):
        tokens, logprobs = reference.draw(np.tile(logits, (200, 1)), temperature=temperature, seed=3, step=step)
        same = tokens == np.array([h.tokens[step] for h in out])
        assert same.mean() > 0.99
        np.testing.assert_allclose(np.array([h.token_logprobs[step] for h in out])[same], logprobs[same], atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("strategy", [Greedy(), TopN(4), Sample(top_k=4), Beam(num_beams=3)], ids=str)
def test_among_equal_logits_the_lowest_ids_win(strategy, monkeypatch):
    monkeypatch.setattr(reduction, "LEAST_BYTES", 0)
    proto = build.unigram(np.repeat(np.float32([0, 2, 1, 2, 2]), 1000))
    options = {"max_new_tokens": 5, "eos_token_id": None, "seed": 3}
    there, here = load(proto, providers="cuda"), load(proto)
    assert decode(there, [[0]] * 3, strategy, **options).tokens == decode(here, [[0]] * 3, strategy, **options).tokens


@needs_cuda
def test_batches_at_once_and_from_several_threads(pair):
    there, _ = pair
    options = {"max_new_tokens": 30, "eos_token_id": None, "seed": 1}
    alone = [decode(there, [[i]], Sample(), **options).tokens[0] for i in range(3)]
    streams = [stream(there, [[i]], Sample(), **options) for i in range(3)]
    together = list(zip(*([e.token for e in row] for row in zip(*streams, strict=True)), strict=True))
    assert [list(tokens) for tokens in together] == alone
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: decode(there, [[i]], Sample(), **options).tokens[0]})) for i in range(3)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(3)] == alone


@needs_cuda
def test_an_endless_stream_of_prompts(pair):
    there, here = pair
    run = lambda model: [h.tokens for h in decode_iter(model, ([i % 9, 1, 2][: 1 + i % 3] for i in range(300)), Greedy(), max_new_tokens=5, eos_token_id=None, batch_size=64)]  # noqa: E731  # fmt: skip
    assert np.mean([a == b for a, b in zip(sorted(run(there)), sorted(run(here)), strict=True)]) > 0.9


@needs_cuda
def test_a_loop_runs_without_cuda_graphs_and_says_so():
    there = load(MODELS / "hand_loop_states.onnx", providers="cuda")
    assert decode(there, [[1]], max_new_tokens=3, eos_token_id=None).tokens[0]
    assert there._network.device_step(None).uncaptured


@needs_cuda
def test_memory_that_is_not_there(pair):
    there, _ = pair
    with pytest.raises(ModelError, match="too little free memory"):
        there._network.session.device_array((1 << 42,), np.float32)


@needs_cuda
def test_a_device_that_is_not_there():
    with pytest.raises(ModelError, match="device_id"):
        load(build.recurrent(), providers=[("CUDAExecutionProvider", {"device_id": 63})])


@needs_cuda
def test_whole_sequences_run_on_the_gpu():
    there = load(build.recurrent("LSTM"), providers="cuda")
    assert isinstance(there._network.session, Session)
    assert there._network.reads_chunks_on_device
    assert not load(build.recurrent("peephole"), providers="cuda")._network.reads_chunks_on_device
