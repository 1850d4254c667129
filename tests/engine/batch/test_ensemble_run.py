"""Native steps of ensembles: bit for bit what the members' own steps and `kernels.combine` give; beside their twins in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoding import (
    Beam,
    DecodeError,
    Engine,
    Ensemble,
    Greedy,
    Guidance,
    ModelError,
    Request,
    Sample,
    TopN,
    decode,
    load,
)
from decoding.engine.batch import ensemble, together
from decoding.engine.batch.ensemble import EnsembleBatch
from decoding.engine.batch.ensemble_run import EnsembleRun
from decoding.engine.search import beam, sampling
from decoding.engine.search.native_beams import NativeBeams
from decoding.engine.search.native_steps import NativeSteps
from decoding.kernels import NativeNetwork, reference
from tests.helpers.native import context_model, native_models, outputs, some_ends, some_prompts
from tests.helpers.native_networks import network, states

STRATEGIES = [
    Greedy(), Sample(), Sample(temperature=0.6), Sample(top_k=3), Sample(top_p=0.7), TopN(4), Beam(num_beams=1), Beam(num_beams=5),
    Beam(num_beams=6, num_beam_groups=3, diversity_penalty=0.5),
]  # fmt: skip
COMBINATIONS = [([1.0, 0.3], "logprobs"), ([2.0, -0.5], "logprobs"), ([0.0, 1.0], "logprobs"), ([1.0, 3.0], "probs")]
VOCABULARIES = [37, 600]


@pytest.fixture(scope="module")
def models():
    return native_models(VOCABULARIES)


def by_members(monkeypatch):
    """Let every member take its own steps, whose logits `kernels.combine` reads: as where a member is none of ours."""
    make = EnsembleBatch.__init__

    def init(self, *args, **options):
        make(self, *args, **options)
        self.in_place = False

    monkeypatch.setattr(EnsembleBatch, "__init__", init)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_steps_equal_those_of_the_members_bit_for_bit(models, data):
    vocab = data.draw(st.sampled_from(VOCABULARIES), label="vocab")
    members = [models[vocab, "LSTM", None], models[vocab, "GRU", data.draw(st.sampled_from([None, "int8"]))]]
    weights, combine = data.draw(st.sampled_from(COMBINATIONS), label="weights")
    both = Ensemble(members, weights, combine)
    if data.draw(st.booleans(), label="nested"):
        both = Ensemble([both, models[vocab, "LSTM", "int8"]], [0.7, 0.3])
    strategy = data.draw(st.sampled_from(STRATEGIES), label="strategy")
    prompts = some_prompts(data, vocab, 30)
    options = {**some_ends(data, vocab, [[[5]], [[1, 2], [0, 1, 2]]]), "seed": 5}
    found = outputs(both, prompts, strategy, **options, batch_size=data.draw(st.integers(1, 40)), workers=data.draw(st.integers(1, 3)))  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        by_members(patched)
        assert found == outputs(both, prompts, strategy, **options, batch_size=len(prompts), workers=1)


@pytest.mark.parametrize("combine", ["logprobs", "probs"])
@pytest.mark.parametrize("strategy", [Sample(), Beam(4)], ids=str)
def test_many_steps_are_one_call(models, monkeypatch, strategy, combine):
    calls = []

    def counted(kind):
        class Counted(kind):
            def take(self, count):
                calls.append(count)
                return super().take(count)

        return Counted

    monkeypatch.setattr(sampling, "NativeSteps", counted(NativeSteps))
    monkeypatch.setattr(beam, "NativeBeams", counted(NativeBeams))
    both = Ensemble([models[37, "GRU", None], models[37, "LSTM", None]], combine=combine)
    decode(both, [[1]], strategy, max_new_tokens=2000, eos_token_id=None)
    assert 1 <= len(calls) < 500  # a call takes 10 ms, many steps, but a busy machine may hold it up


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(3)], ids=str)
def test_guidance_reads_the_condition_in_one_member_alone(monkeypatch, strategy):
    rng = np.random.default_rng(0)
    guided, prompts = Guidance(load(context_model(rng), executor="native"), 2.0), [[1, 2], [3], [1]]
    context = {"context": rng.normal(size=(3, 3)).astype(np.float32)}
    options = {"max_new_tokens": 20, "eos_token_id": None, "context": context, "seed": 1}
    found = outputs(guided, prompts, strategy, **options, batch_size=2)
    assert found != outputs(guided, prompts, strategy, **options | {"context": {"context": 0 * context["context"]}})
    by_members(monkeypatch)
    assert found == outputs(guided, prompts, strategy, **options)


@pytest.mark.parametrize("strategy", [Sample(), Beam(3)], ids=str)
def test_states_after_outputs_are_those_of_the_members(models, monkeypatch, strategy):
    both = Ensemble([models[37, "LSTM", None], models[37, "GRU", None]])
    options = {"max_new_tokens": 12, "eos_token_id": 3, "return_state": True, "seed": 4}

    def states():
        return [h.state for h in decode(both, [[1, 2], [4], [5, 6, 7]], strategy, **options)]

    found = states()
    by_members(monkeypatch)
    for own, expected in zip(found, states(), strict=True):
        assert own.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(own[name], value)


def test_conversations_side_by_side_know_their_states(models):
    """A row that has finished keeps the states of all members, while the others go on in the same native call."""
    both = Ensemble([models[37, "LSTM", None], models[37, "GRU", "int8"]])
    texts = [[i, 2] for i in range(12)]
    with Engine(both, Sample(), max_new_tokens=60, eos_token_id=3) as engine:
        for turn in range(6):
            tickets = [engine.submit(Request(text, seed=turn)) for text in texts]
            for text, ticket in zip(texts, tickets, strict=True):
                found = ticket.result(60)[0].tokens
                same = Request(text, Sample(), seed=turn)
                assert decode(both, same, max_new_tokens=60, eos_token_id=3)[0].tokens == found
                text += [*found, turn]
        assert max(map(len, texts)) > 60
        assert len(engine._known._states) > 12


def test_threads_change_nothing(models, monkeypatch):
    both = Ensemble([models[600, "LSTM", None], models[600, "GRU", None]], [0.7, 0.3])
    options = {"max_new_tokens": 12, "num_return_sequences": 5, "seed": 2, "eos_token_id": None, "workers": 1}
    noted = []

    class Noted(EnsembleRun):
        def __init__(self, *args, threads):
            noted.append(threads)

    def run():
        return [outputs(both, [[1], [2, 3]], strategy, **options) for strategy in (Sample(), Beam(5))]

    expected = run()
    monkeypatch.setattr(ensemble, "EnsembleRun", Noted)
    monkeypatch.setattr(together, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert run() == expected
    assert set(noted) == {2}


def test_a_fault_is_that_of_the_members_steps(models, monkeypatch):
    table = np.random.default_rng(0).uniform(-1, 1, (37, 21)).astype(np.float32)
    table[5:12] = np.nan
    both = Ensemble([models[37, "LSTM", None], models[37, "GRU", None].with_weights({"table": table})])

    def faults():
        for strategy in (Greedy(), Sample(), Beam(3)):
            with pytest.raises(DecodeError, match="NaN") as caught:
                decode(both, [[i] for i in (1, 2, 20)], strategy, max_new_tokens=200, eos_token_id=None, seed=1)
            yield str(caught.value), caught.value.row, caught.value.step

    found = list(faults())
    by_members(monkeypatch)
    assert found == list(faults())


@settings(max_examples=30, deadline=None)
@given(cells=st.lists(st.sampled_from(["LSTM", "GRU", "RNN"]), min_size=1, max_size=3), rows=st.integers(1, 9),
       how=st.sampled_from(["logits", "logprobs", "probs"]), threads=st.integers(1, 3), seed=st.integers(0, 99))  # fmt: skip
def test_equals_its_twins(cells, rows, how, threads, seed):
    rng = np.random.default_rng(seed)
    made = [network(rng, cell, 5 + i) for i, cell in enumerate(cells)]
    pairs = [states(rng, arrays, rows) for arrays, _ in made]
    given_weights = [1.0, 0.3, 2.0][: len(cells)]
    own, tokens, logits = members(made, pairs, rows), np.zeros(rows, np.int64), np.zeros((rows, 9), np.float32)
    step = EnsembleRun(own, given_weights, how, tokens, np.zeros(rows, bool), logits, threads=threads)
    each = [([h.copy() for h, _ in p], [None if c is None else c.copy() for _, c in p]) for p in pairs]
    for _ in range(3):
        tokens[:] = rng.integers(0, 11, rows)
        step.run()
        expected = []
        for i, (_, twin) in enumerate(made):
            top, *each[i] = twin.read(tokens[:, None], *each[i], None)
            expected.append(twin.output(top[:, 0]))
        np.testing.assert_allclose(logits, reference.combine(expected, given_weights, how), rtol=1e-4, atol=1e-4)


def test_a_token_that_one_member_cannot_read_is_refused():
    rng = np.random.default_rng(0)
    made = [network(rng, "RNN", 4) for _ in range(2)]
    arrays, twin = made[1]
    made[1] = replace(arrays, vocabulary=7, embedding=arrays.embedding[:7]), twin
    own, tokens = members(made, [states(rng, a, 2) for a, _ in made], 2), np.array([3, 8])
    step = EnsembleRun(own, [1, 1], "logits", tokens, np.zeros(2, bool), np.zeros((2, 9), np.float32), threads=1)
    with pytest.raises(ModelError, match="row 1 has a token that lies outside the embedding; expected 0 <= token < 7"):
        step.run()


def members(made, pairs, rows):
    """The runs of one step of each network; they update the states in place."""
    return [
        NativeNetwork(arrays).bind(np.zeros((rows, 1), np.int64), own, np.zeros((1, rows, 9), np.float32))
        for (arrays, _), own in zip(made, pairs, strict=True)
    ]
