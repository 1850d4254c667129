"""Decoding with ensembles against each member's own scores, combined in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import (
    Beam,
    Engine,
    Ensemble,
    Greedy,
    OptionError,
    Request,
    Sample,
    SuppressTokens,
    decode,
    decode_iter,
    load,
    rollout,
    score,
    stream,
)
from decoding.engine.batch import reduction, together
from decoding.model.network import Network
from tests.helpers import build
from tests.helpers.ensembles import (
    SOURCES,
    STRATEGIES,
    Truth,
    check,
    members_of_every_kind,
    outputs,
    translators_and_lm,
)
from tests.helpers.ensembles import VOCAB as V
from tests.helpers.latents import Noisy

PROMPTS = [[1, 4, 2], [3], [5, 5, 6, 0, 2], [2, 6]]


@pytest.fixture(scope="module")
def models():
    return members_of_every_kind()


@pytest.fixture(scope="module")
def translators():
    return translators_and_lm()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("batch_size", [2, 64])
@pytest.mark.parametrize(
    ("kinds", "weights", "combine"),
    [
        (("native", "onnxruntime"), None, "logprobs"),
        (("native", "softmax", "onnxruntime"), [1, 0.3, -0.4], "logprobs"),
        (("int8", "window"), [0.5, 1.5], "logprobs"),
        (("window", "native", "softmax"), [3, 1, 2], "probs"),
    ],
)
def test_every_strategy_follows_the_combination(models, kinds, weights, combine, strategy, batch_size):
    ensemble = Ensemble([models[kind] for kind in kinds], weights, combine)
    truth = Truth([(models[kind], {}) for kind in kinds], weights, combine)
    options = {"max_new_tokens": 4, "eos_token_id": None, "num_return_sequences": outputs(strategy), "seed": 4}
    found = decode(ensemble, PROMPTS, strategy, batch_size=batch_size, **options)
    assert len(found) == len(PROMPTS) * outputs(strategy)
    check(found, truth, PROMPTS, ranks=isinstance(strategy, Beam))
    if isinstance(strategy, Greedy):
        assert found.tokens == [truth.greedy(prompt, 4) for prompt in PROMPTS]
    else:
        alone = decode(ensemble, PROMPTS, strategy, batch_size=1, **options)
        assert alone.tokens == found.tokens


@pytest.mark.parametrize(("weights", "combine"), [([1, 0.3], "logprobs"), ([2, -1], "logprobs"), ([1, 3], "probs")])
def test_beams_are_those_of_an_exhaustive_search(models, weights, combine):
    """As many beams as there are prefixes: nothing is pruned."""
    members = [models["native"], models["onnxruntime"]]
    truth = Truth([(model, {}) for model in members], weights, combine)
    found = decode(
        Ensemble(members, weights, combine), [[1, 4]], Beam(V * V, early_stopping="never"), max_new_tokens=3,
        eos_token_id=3, num_return_sequences=5,
    )  # fmt: skip
    expected = truth.best([1, 4], 3, 5, eos=3)
    assert [[*h.tokens, *([3] if h.finish_reason == "eos" else [])] for h in found] == [ids for _, ids in expected]
    np.testing.assert_allclose(found.scores, [own for own, _ in expected], atol=2e-4)


def test_processors_edit_what_beams_add_up(models):
    members = [models["native"], models["onnxruntime"]]
    truth = Truth([(model, {}) for model in members], [1, 0.3])
    found = decode(
        Ensemble(members, [1, 0.3]), [[1, 4]], Beam(V * V, early_stopping="never"), max_new_tokens=3, eos_token_id=None,
        num_return_sequences=5, processors=[SuppressTokens([0, 5])],
    )  # fmt: skip
    expected = truth.best([1, 4], 3, 5, banned=(0, 5))
    assert found.tokens == [ids for _, ids in expected]
    np.testing.assert_allclose(found.scores, [own for own, _ in expected], atol=2e-4)


@pytest.mark.parametrize("combine", ["logprobs", "probs"])
def test_draws_have_the_combined_distribution(models, combine):
    members = [models["native"], models["softmax"]]
    truth = Truth([(model, {}) for model in members], [0.4, 0.6], combine)
    drawn = decode(Ensemble(members, [0.4, 0.6], combine), [[2, 5]], Sample(), max_new_tokens=1, num_return_sequences=20_000, eos_token_id=None, seed=7)  # fmt: skip
    counts = np.bincount([h.tokens[0] for h in drawn], minlength=V)
    expected = 20_000 * np.exp(truth.logprobs([2, 5]))
    assert ((counts - expected) ** 2 / expected).sum() < 40  # 8 degrees of freedom: 3e-6


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("kind", ["native", "onnxruntime", "window"])
def test_an_ensemble_of_a_model_with_itself_is_the_model(models, kind, strategy):
    model = models[kind]
    options = {"max_new_tokens": 8, "eos_token_id": 3, "num_return_sequences": outputs(strategy), "seed": 11}
    expected = decode(model, PROMPTS, strategy, **options)
    for members, weights in (([model], None), ([model, model], None), ([model, model], [0, 1])):
        found = decode(Ensemble(members, weights), PROMPTS, strategy, **options)
        assert found.tokens == expected.tokens
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        assert [h.finish_reason for h in found] == [h.finish_reason for h in expected]


def test_scores_are_combined(models):
    members = [models["native"], models["window"], models["onnxruntime"]]
    weights = [1, 0.5, -0.25]
    truth = Truth([(model, {}) for model in members], weights)
    sequences = [[1, 4, 2, 6], [3, 3], [1, 4, 5]]
    for batch_size in (1, 3):
        found = score(Ensemble(members, weights), sequences, batch_size=batch_size)
        for ids, own in zip(sequences, found, strict=True):
            assert np.isnan(own[0])
            np.testing.assert_allclose(own[1:], truth.of_output(ids[:1], ids[1:])[0], atol=2e-4)


def test_streams_iterators_and_engines_give_the_tokens_of_decode(models):
    ensemble = Ensemble([models["native"], models["window"]], [1, 0.3])
    options = {"max_new_tokens": 6, "eos_token_id": 3, "seed": 2}
    expected = decode(ensemble, PROMPTS, Sample(), **options)
    streamed = [[] for _ in PROMPTS]
    for event in stream(ensemble, PROMPTS, Sample(), **options):
        streamed[event.prompt_index] += [event.token] if event.finish_reason != "eos" else []
    assert streamed == expected.tokens
    found = sorted(decode_iter(ensemble, iter(PROMPTS), Sample(), **options), key=lambda h: h.prompt_index)
    assert [h.tokens for h in found] == expected.tokens
    requests = [Request(p, s, seed=i) for i, (p, s) in enumerate(zip(PROMPTS, STRATEGIES, strict=False))]
    alone = [decode(ensemble, request, **options)[0].tokens for request in requests]
    assert decode(ensemble, requests, **options).tokens == alone
    with Engine(ensemble, batch_size=3, **options) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60)[0].tokens for ticket in tickets] == alone


def test_workers_change_nothing(models):
    ensemble = Ensemble([models["native"], models["onnxruntime"]])
    options = {"max_new_tokens": 6, "num_return_sequences": 8, "seed": 2, "eos_token_id": None}
    expected = decode(ensemble, PROMPTS, Sample(), workers=1, **options)
    assert decode(ensemble, PROMPTS, Sample(), workers=3, batch_size=5, **options).tokens == expected.tokens


def test_threads_change_nothing(models, monkeypatch):
    """Steps of members in threads, where one of them is none of ours: the same bits."""
    other = load(build.recurrent("GRU", vocab=V, seed=9), executor="onnxruntime", threads=1)
    ensemble = Ensemble([models["native"], other], [0.7, 0.3])
    options = {"max_new_tokens": 12, "num_return_sequences": 5, "seed": 2, "eos_token_id": None, "workers": 1}
    expected = decode(ensemble, PROMPTS, Sample(), **options)
    monkeypatch.setattr(together, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    started = []
    monkeypatch.setattr(
        together._Helper, "start", lambda self, own=together._Helper.start: (started.append(1), own(self))
    )
    found = decode(ensemble, PROMPTS, Sample(), **options)
    assert started
    for a, b in zip(found, expected, strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_array_equal(a.token_logprobs, b.token_logprobs)


def test_an_error_in_a_thread_is_raised_after_all_have_ended():
    ended = []

    def fails():
        raise ValueError("this one")

    helper = together._Helper(fails)
    other = together._Helper(lambda: ended.append(1))
    for _ in range(3):  # the thread goes on
        helper.start()
        other.start()
        assert str(helper.wait(None)) == "this one"
        assert other.wait(None) is None
    assert len(ended) == 3


def test_a_state_goes_on_as_if_all_were_given_again(models):
    ensemble = Ensemble({"a": models["native"], "b": models["onnxruntime"], "c": models["window"]})
    for strategy in (Greedy(), Beam(2), Sample()):
        first = decode(ensemble, [[1, 4, 2]], strategy, max_new_tokens=4, eos_token_id=None, return_state=True, seed=3)[
            0
        ]
        again = decode(ensemble, Request([2, 5], state=first.state), max_new_tokens=5, eos_token_id=None)[0]
        whole = decode(ensemble, [[1, 4, 2, *first.tokens, 2, 5]], max_new_tokens=5, eos_token_id=None)[0]
        assert again.tokens == whole.tokens
        np.testing.assert_allclose(again.token_logprobs, whole.token_logprobs, atol=1e-5)


def test_rollouts_complete_by_the_combination(models):
    """The values are those of a policy that was sampled from directly: greedy completions are known."""
    members = [models["native"], models["onnxruntime"]]
    truth = Truth([(model, {}) for model in members], [1, 0.5])
    sequences = [[1, 4, 2, 6], [3, 3]]

    def reward(ids):
        return [float(sum(t * token for t, token in enumerate(row))) for row in ids.tolist()]

    found = rollout(Ensemble(members, [1, 0.5]), sequences, reward, n=1, strategy=Greedy(), eos_token_id=None)
    for row, ids in zip(found, sequences, strict=True):
        for t in range(len(ids) - 1):
            completed = [*ids[: t + 1], *truth.greedy(ids[: t + 1], 4 - t - 1)]
            assert row[t] == reward(np.array([completed]))[0]


# -- any members -------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["native", "onnxruntime", "softmax", "int8", "window"]), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([-0.5, 0.0, 0.3, 1.0, 2.0]), min_size=3, max_size=3),
    combine=st.sampled_from(["logprobs", "probs"]),
    strategy=st.sampled_from(STRATEGIES),
    prompts=st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=5), min_size=1, max_size=4),
    batch_size=st.integers(1, 5),
    nested=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_ensemble(models, kinds, weights, combine, strategy, prompts, batch_size, nested, seed):
    own = [abs(w) for w in weights[: len(kinds)]] if combine == "probs" else weights[: len(kinds)]
    own[0] = own[0] or 1.0
    members = [models[kind] for kind in kinds]
    ensemble = Ensemble(members, own, combine)
    if nested:
        ensemble = Ensemble({"all": ensemble})
    found = decode(
        ensemble, prompts, strategy, max_new_tokens=3, eos_token_id=None, num_return_sequences=outputs(strategy),
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    truth = Truth([(model, {}) for model in members], own, combine)
    check(found, truth, prompts, ranks=isinstance(strategy, Beam) and not nested)


# -- the scores of each member -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_member_logprobs_are_those_of_each_member_alone(models, translators, strategy):
    options = {"max_new_tokens": 5, "eos_token_id": 3, "num_return_sequences": outputs(strategy), "seed": 2}
    members = [models["native"], models["window"], models["softmax"]]
    for h in decode(Ensemble(members), PROMPTS, strategy, return_member_logprobs=True, **options):
        ids = [*h.tokens, *([3] if h.finish_reason == "eos" else [])]
        prompt = PROMPTS[h.prompt_index]
        expected = [score(model, [[*prompt, *ids]])[0][len(prompt) :] for model in members]
        assert h.member_logprobs.dtype == np.float32
        np.testing.assert_allclose(h.member_logprobs, expected, atol=1e-4)
        assert np.shape(h.to_dict()["member_logprobs"]) == np.shape(expected)
    mt, _, lm = translators
    for h in decode(Ensemble([mt, lm]), SOURCES, strategy, return_member_logprobs=True, **options):
        ids = [*h.tokens, *([3] if h.finish_reason == "eos" else [])]
        expected = [score(mt, [ids], prompts=[SOURCES[h.prompt_index]])[0], score(lm, [ids])[0]]
        np.testing.assert_allclose(h.member_logprobs, expected, atol=1e-4)


def test_member_logprobs_of_requests_that_go_on_from_a_state(models):
    ensemble = Ensemble([models["native"], models["onnxruntime"], models["window"]])
    options = {"eos_token_id": None, "return_member_logprobs": True}
    whole = decode(ensemble, [[1, 4, 2]], max_new_tokens=6, **options)[0]
    first = decode(ensemble, [[1, 4, 2]], max_new_tokens=2, return_state=True, **options)[0]
    again = decode(ensemble, Request(state=first.state), max_new_tokens=4, **options)[0]
    np.testing.assert_allclose(
        np.hstack([first.member_logprobs, again.member_logprobs]), whole.member_logprobs, atol=1e-5
    )
    turn = [1, 4, 2] * 15
    with Engine(ensemble, batch_size=2, eos_token_id=None, max_new_tokens=3) as engine:
        engine.submit(turn).result(60)
        known = engine.submit(Request([*turn, 5, 1], return_member_logprobs=True)).result(60)[0]
    expected = decode(ensemble, [[*turn, 5, 1]], max_new_tokens=3, **options)[0]
    assert known.tokens == expected.tokens
    np.testing.assert_allclose(known.member_logprobs, expected.member_logprobs, atol=1e-5)


def test_member_logprobs_with_drawn_latents():
    model = load(Noisy().model(), roles={"latent": {"z": {"distribution": "normal", "every": "step"}}})
    h = decode(
        Ensemble([model, model]), [[1, 2]], max_new_tokens=4, eos_token_id=None, seed=3, return_member_logprobs=True
    )[0]
    np.testing.assert_allclose(h.member_logprobs[0], h.token_logprobs, atol=1e-4)
    np.testing.assert_array_equal(h.member_logprobs[0], h.member_logprobs[1])


def test_where_there_are_no_member_logprobs(models):
    ensemble = Ensemble([models["native"], models["softmax"]])
    assert decode(ensemble, [[1]], max_new_tokens=1)[0].member_logprobs is None
    with pytest.raises(OptionError, match="has no members"):
        decode(models["native"], [[1]], return_member_logprobs=True)
    with pytest.raises(OptionError, match="not with step_inputs="):
        decode(ensemble, [[1]], return_member_logprobs=True, step_inputs=lambda history: {})
    with pytest.raises(OptionError, match="teacher: not with return_member_logprobs"):
        decode(ensemble, [[1]], return_member_logprobs=True, teacher=[[1]], teacher_ratio=1.0)
    with pytest.raises(OptionError, match="expected True or False"):
        decode(ensemble, [[1]], return_member_logprobs=1)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_members_on_a_device(models, monkeypatch, strategy):
    """A device whose memory is the CPU's: all logits of each member come down."""
    members = [load(build.recurrent("GRU", vocab=V, seed=seed, layers=2), threads=1) for seed in (1, 2)]
    options = {"max_new_tokens": 4, "eos_token_id": 3, "num_return_sequences": outputs(strategy), "seed": 5}
    ensemble = Ensemble(members, [1, 0.5])
    expected = decode(ensemble, PROMPTS, strategy, workers=1, **options)
    monkeypatch.setattr(reduction, "LEAST_BYTES", 0)
    monkeypatch.setattr(Network, "on_device", True)
    assert ensemble._network.on_device
    found = decode(ensemble, PROMPTS, strategy, **options)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
