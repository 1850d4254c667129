"""Models with a native step: the same seed gives the same tokens at every batch size and number of workers."""

import dataclasses

import numpy as np
import pytest

from decoding import Beam, Greedy, Sample, decode, load, rollout, score
from tests.helpers import build
from tests.helpers.native import context_model

PROMPTS = [[1 + i % 7] + [i % 5] * (i % 4) for i in range(130)]
STRATEGIES = {
    "greedy": (Greedy(), 1),
    "sample": (Sample(), 2),
    "top_p": (Sample(top_p=0.8, temperature=1.3), 1),
    "beam": (Beam(num_beams=4), 2),
    "stochastic beam": (Sample(replacement=False), 3),
}


@pytest.fixture(scope="module", params=[None, "int8"], ids=["float32", "int8"])
def model(request):
    proto = build.recurrent("LSTM", hidden=33, layers=2, vocab=40, scale=0.5)
    return load(proto, executor="native", quantize=request.param)


@pytest.mark.parametrize("name", STRATEGIES)
def test_tokens_and_scores_are_equal_bit_for_bit(model, name):
    strategy, count = STRATEGIES[name]
    seed = {} if isinstance(strategy, Greedy | Beam) else {"seed": 3}

    def outputs(batch_size, workers):
        found = decode(model, PROMPTS, strategy, num_return_sequences=count, max_new_tokens=12, eos_token_id=0,
                       batch_size=batch_size, workers=workers, **seed)  # fmt: skip
        return [(h.prompt_index, h.rank, h.ids.tolist(), h.logprob, h.score, h.finish_reason) for h in found]

    expected = outputs(130, 1)
    for batch_size in (4, 5, 6, 7, 13, 31, 64, 65, 129):
        assert outputs(batch_size, 1) == expected
    for workers in (2, 3, 4):
        assert outputs(17, workers) == expected


def test_scores_are_equal_bit_for_bit(model):
    sequences = [[1, *p, 3] for p in PROMPTS]
    expected = score(model, sequences, batch_size=130)
    for batch_size in (1, 7, 64):
        for a, b in zip(score(model, sequences, batch_size=batch_size), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("exposed", [False, True])
def test_prompts_are_read_in_chunks_with_the_bits_of_their_steps(exposed, monkeypatch):
    proto = build.recurrent("LSTM", hidden=33, layers=2, vocab=40, scale=0.5, exposed=exposed)
    native = load(proto, executor="native", quantize="int8")
    prompt = np.random.default_rng(0).integers(0, 40, 700)  # more than one chunk
    times, run = [], type(native._network.read_session).run

    def seen(self, feeds, *rest, **options):
        times.append(feeds[native._network.contract.token.name].shape[1])
        return run(self, feeds, *rest, **options)

    monkeypatch.setattr(type(native._network.read_session), "run", seen)
    (found,) = decode(native, [prompt], Greedy(), max_new_tokens=9)
    assert sum(times) == 699
    assert max(times) == 512
    native._network.contract = dataclasses.replace(native._network.contract, sequence=False)
    (expected,) = decode(native, [prompt], Greedy(), max_new_tokens=9)
    assert (found.ids.tolist(), found.logprob) == (expected.ids.tolist(), expected.logprob)


def test_contexts_of_each_row():
    rng = np.random.default_rng(0)
    proto = context_model(rng)
    native, exact = load(proto, executor="native"), load(proto)
    assert native.executor == "native"
    context = {"context": rng.normal(size=(5, 3)).astype(np.float32)}
    for strategy in (Greedy(), Beam(num_beams=3)):
        found, expected = (decode(m, [[1]] * 5, strategy, context=context, max_new_tokens=9) for m in (native, exact))
        assert [h.ids.tolist() for h in found] == [h.ids.tolist() for h in expected]
        np.testing.assert_allclose([h.logprob for h in found], [h.logprob for h in expected], rtol=1e-5)


def test_rollouts_do_not_depend_on_the_batch(model):
    def reward(sequences):
        return np.asarray(sequences, np.float64).sum(axis=1)

    sequences = np.random.default_rng(0).integers(1, 40, (3, 6)).tolist()
    a, b = (rollout(model, sequences, reward, n=2, seed=1, batch_size=size, eos_token_id=None) for size in (1, 64))
    np.testing.assert_array_equal(a, b)
