"""rollout(): Monte-Carlo action values, beside brute-force expectations over every completion."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from decoding import (
    Beam,
    DecodeError,
    Greedy,
    OptionError,
    Request,
    Sample,
    SuppressTokens,
    TopN,
    decode,
    load,
    rollout,
    score,
)
from tests.helpers import build
from tests.helpers.exports import MODELS
from tests.helpers.latents import Noisy
from tests.helpers.seq2seq import AdditiveModel

VOCAB = 4
# Several hundred comparisons of means with their expectations: 1e-6 together, by the normal distribution.
Z = 6.2


def markov(table, metadata=None):
    """A recurrent model whose next token depends on the last one alone: probabilities [V, V]."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(table, np.float32))
    nodes = [
        helper.make_node("Gather", ["logits_table", "tokens"], ["taken"]),
        helper.make_node("Mul", ["h", "zero"], ["h_out"]),
        helper.make_node("ReduceSum", ["h_out", "axis"], ["nothing"], keepdims=0),
        helper.make_node("Unsqueeze", ["nothing", "axis"], ["column"]),
        helper.make_node("Unsqueeze", ["column", "axis"], ["added"]),
        helper.make_node("Add", ["taken", "added"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "markov",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", len(logits)]),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            numpy_helper.from_array(logits, "logits_table"),
            numpy_helper.from_array(np.zeros(2, np.float32), "zero"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    return build.model(graph, metadata)


def test_the_worked_example():
    """Step distributions (0.5, 0.5, 0.0) and (0.1, 0.8, 0.1): "first, second" has probability 0.4, "first, first" 0.05."""
    model = load(markov([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.5, 0.5, 0.0]], {"decoding.bos": 2}))
    assert np.exp(score(model, [0, 1])[0].sum()) == pytest.approx(0.4)
    assert np.exp(score(model, [0, 0])[0].sum()) == pytest.approx(0.05)
    drawn = decode(model, None, Sample(), max_new_tokens=2, num_return_sequences=40_000, seed=1).padded(-1)
    for pair, expected in (([0, 1], 0.4), ([0, 0], 0.05), ([2, 1], 0.0)):
        frequency = (drawn == pair).all(1).mean()
        assert frequency == pytest.approx(expected, abs=Z * np.sqrt(expected * (1 - expected) / 40_000))
    values = rollout(model, [[0, 1], [1, 0]], lambda ids: (ids == [0, 1]).all(1), n=10_000, seed=1)
    np.testing.assert_allclose(values, [[0.8, 1.0], [0.0, 0.0]], atol=Z * np.sqrt(0.16 / 10_000))


def worth(ids):
    """A reward that depends on every place of a row."""
    places = np.arange(1, ids.shape[1] + 1)
    return np.cos(ids * places + places).sum(1)


def expectation(logprobs, prefix, longest, eos, width, pad):
    """Mean and variance of the reward over every completion of `prefix` by at most `longest` tokens."""
    outcomes = []

    def follow(ids, left, probability):
        if left == 0 or (len(ids) > len(prefix) and ids[-1] in eos):
            outcomes.append((probability, worth(np.array([ids + [pad] * (width - len(ids))]))[0]))
            return
        for token, logprob in enumerate(logprobs(ids)):
            follow([*ids, token], left - 1, probability * np.exp(logprob))

    follow(list(prefix), longest, 1.0)
    p, r = np.array(outcomes).T
    assert p.sum() == pytest.approx(1, abs=1e-5)
    return p @ r, p @ r**2 - (p @ r) ** 2


@pytest.fixture(params=[(cell, *shape) for cell in build.CELLS for shape in [(1, 1), (9, 2), (130, 1)]], scope="module")
def tiny(request):
    """A model of few tokens, and the log-probabilities after a prefix by the unchanged file."""
    cell, hidden, layers = request.param
    options = {"vocab": VOCAB, "hidden": hidden, "layers": layers, "seed": hidden, "scale": 6 / np.sqrt(hidden)}
    proto = build.recurrent(cell, **options)
    known = {}

    def logprobs(ids):
        if tuple(ids) not in known:
            logits = build.whole_run(proto, [ids])[0, -1].astype(np.float64)
            known[tuple(ids)] = logits - np.log(np.exp(logits).sum())
        return known[tuple(ids)]

    return load(build.recurrent(cell, exposed=layers > 1, **options)), logprobs


@pytest.mark.parametrize("eos", [(), (3,), (0, 2)])
@pytest.mark.parametrize("longest", [None, 2])
def test_values_are_expectations_over_all_completions(tiny, eos, longest):
    model, logprobs = tiny
    sequences, n = [[1, 2, 1, 0], [2, 1, 3, 2], [1, 3, 0, 2], [0]], 1500
    options = {"eos_token_id": eos or None, "pad_token_id": 1, "max_new_tokens": longest, "seed": 5}
    values = rollout(model, sequences, worth, n=n, **options)
    width = 4 if longest is None else 5
    for row, sequence in zip(values, sequences, strict=True):
        end = next((i for i, token in enumerate(sequence) if token in eos), len(sequence) - 1)
        own = worth(np.array([[*sequence[: end + 1], *[1] * (width - end - 1)]]))[0]
        assert (row[end:] == own).all()
        for t in range(end):
            mean, variance = expectation(logprobs, sequence[: t + 1], longest or 3 - t, eos, width, 1)
            assert abs(row[t] - mean) <= Z * np.sqrt(variance / n) + 1e-4


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    batch_size=st.integers(1, 40),
    workers=st.integers(1, 3),
    n=st.integers(1, 4),
    longest=st.none() | st.integers(1, 6),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=40, deadline=None)
def test_values_depend_on_the_seed_alone(exact, lengths, batch_size, workers, n, longest, seed):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 11, length).tolist() for length in lengths]
    calls = []

    def counted(ids):
        calls.append(ids.shape)
        return worth(ids)

    options = {"n": n, "seed": seed, "eos_token_id": 3, "max_new_tokens": longest}
    alone = rollout(exact, sequences, worth, batch_size=1, workers=1, **options)
    values = rollout(exact, sequences, counted, batch_size=batch_size, workers=workers, **options)
    np.testing.assert_array_equal(values, alone)
    assert values.shape == (len(sequences), max(lengths))
    ends = [s.index(3) if 3 in s else len(s) - 1 for s in sequences]
    assert sum(rows for rows, _ in calls) == len(sequences) + n * sum(ends)  # each row is rewarded once
    assert {width for _, width in calls} == {max(lengths) if longest is None else max(lengths) - 1 + longest}


@pytest.fixture(scope="module")
def exact():
    """A model whose logits have the same bits in every batch, which onnxruntime's products have not."""
    return load(markov(np.random.default_rng(1).dirichlet(np.ones(11), 11)))


@pytest.fixture(scope="module")
def models():
    return {cell: load(build.recurrent(cell, layers=2, scale=0.7, seed=3)) for cell in build.CELLS}


def test_more_sequences_than_are_read_together(models):
    """Their values are means over the same distributions as one by one."""
    sequences = np.random.default_rng(0).integers(0, 11, (300, 3))
    values = rollout(models["GRU"], sequences, lambda ids: ids[:, -1] == 4, n=200, seed=1)
    for row in (0, 127, 128, 256, 299):
        expected = float(np.exp(score(models["GRU"], [[*sequences[row, :2], 4]])[0][-1]))
        assert values[row, 1] == pytest.approx(expected, abs=Z * np.sqrt(expected / 200))
        assert values[row, 2] == (sequences[row, 2] == 4)


def test_seeds(models):
    def values(**options):
        return rollout(models["GRU"], [[1, 2, 3, 4]], worth, n=3, **options)

    assert not np.array_equal(values(seed=1), values(seed=2))
    assert not np.array_equal(values(), values())  # each call draws anew
    np.testing.assert_array_equal(values(seed=1), values(seed=1))


def test_completions_do_not_repeat_the_draws_of_decode():
    model = load(build.unigram(np.zeros(1000)))
    seen = []
    rollout(model, [[0] * 9], lambda ids: seen.append(ids) or ids[:, 0], n=1, seed=3)
    (tokens,) = decode(model, [[0]], Sample(), max_new_tokens=8, seed=3).tokens
    assert tokens not in np.concatenate(seen)[:, 1:].tolist()


def test_each_token_is_read_once_for_all_completions(models, monkeypatch):
    model, read = models["LSTM"], []
    run = model._network.read_session.run

    def counting(feeds, *args, **options):
        read.append(np.size(feeds["tokens"]))
        return run(feeds, *args, **options)

    monkeypatch.setattr(model._network.read_session, "run", counting)
    rollout(model, np.ones((5, 8), np.int64), worth, n=7, seed=1, workers=1)
    assert sum(read) == 5 * 6  # the last but one is fed by the completions, the last by nobody


def test_rows_stay_within_the_batch_size(models, monkeypatch):
    model, sizes = models["LSTM"], []
    bind = model._network.step_session.bind

    def counting(inputs, outputs):
        sizes.append(len(inputs["tokens"]))
        return bind(inputs, outputs)

    monkeypatch.setattr(model._network.step_session, "bind", counting)
    rollout(model, np.ones((5, 8), np.int64), worth, n=7, seed=1, workers=1, batch_size=6)
    assert max(sizes) == 6


def test_a_model_with_bos_eos_and_pad_of_its_own():
    proto = build.recurrent("GRU", metadata={"decoding.bos": 0, "decoding.eos": [5], "decoding.pad": 9})
    seen = []
    values = rollout(load(proto), [[1, 5, 2], [4, 4, 4]], lambda ids: seen.append(ids) or worth(ids), n=2, seed=1)
    assert seen[0].tolist() == [[1, 5, 9], [4, 4, 4]]
    assert (values[0, 1:] == worth(np.array([[1, 5, 9]]))).all()
    for ids in np.concatenate(seen).tolist():
        assert 0 not in ids or 0 in ids[1:]  # the BOS is not the sequence's
        assert 5 not in ids or set(ids[ids.index(5) + 1 :]) <= {9}


def test_requests_have_the_values_of_calls_of_their_own(models):
    def likes_even(history, logits):
        logits[:, 1::2] -= 2

    options = {"n": 30, "max_new_tokens": 6, "pad_token_id": 0}
    alone = (
        {"strategy": TopN(3), "seed": 4},
        {"seed": 9, "processors": [likes_even]},
        {"strategy": Sample(0.5), "seed": 4},
    )
    sequences = [[1, 2, 3], [2, 2, 2, 2], [1, 2, 3]]
    mixed = [Request(ids, **own) for ids, own in zip(sequences, alone, strict=True)]
    values = rollout(models["LSTM"], [*mixed, [4, 1]], lambda ids: (ids == 4).sum(1), **options, seed=1, batch_size=7)
    for row, (ids, own) in enumerate(zip(sequences, alone, strict=True)):
        found = rollout(models["LSTM"], [ids], lambda ids: (ids == 4).sum(1), **options, **own)
        np.testing.assert_array_equal(values[row, : len(ids)], found[0])
    assert not np.array_equal(values[0], values[2])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"num_return_sequences": 2}, r"sequences\[1\]: a Request to complete takes only strategy, seed, processors, not num_"),
        ({"context": [1.0]}, "not context; pass context to rollout"),
        ({"eos_token_id": 3}, "not eos_token_id; pass"),
        ({"strategy": Beam()}, "completions are drawn one by one"),
        ({"strategy": Greedy()}, "n=2: Greedy"),
        ({"seed": -1}, r"sequences\[1\]: seed=-1"),
    ],
)  # fmt: skip
def test_options_that_a_completion_cannot_have(models, own, message):
    with pytest.raises(OptionError, match=message):
        rollout(models["LSTM"], [[1, 2], Request([1, 2, 3], **own)], worth, n=2)


@pytest.mark.parametrize("strategy", [Greedy(), TopN(1), Sample(temperature=1e-4), Sample(top_k=1)], ids=repr)
def test_strategies(models, strategy):
    sequences = [[1, 2, 3, 4], [0, 0, 0, 0]]
    values = rollout(models["RNN"], sequences, worth, n=1, strategy=strategy, seed=0)
    for row, sequence in zip(values, sequences, strict=True):
        for t in range(3):
            (rest,) = decode(models["RNN"], [sequence[: t + 1]], Greedy(), max_new_tokens=3 - t).tokens
            assert row[t] == worth(np.array([sequence[: t + 1] + rest]))[0]


def test_a_temperature_for_each_sequence(models):
    strategy = Sample(temperature=np.array([1e-4, 1.0]))
    values = rollout(models["GRU"], [[1, 2, 3]] * 2, worth, n=50, strategy=strategy, seed=0)
    greedy = rollout(models["GRU"], [[1, 2, 3]], worth, n=1, strategy=Greedy())
    np.testing.assert_allclose(values[0], greedy[0])
    assert not np.allclose(values[1], greedy[0])


def test_processors_see_the_prefix_as_the_prompt(models):
    prompts = []

    def note(history, logits):
        prompts.extend(len(p) for p in history.prompts)

    seen = []
    rollout(models["GRU"], [[1, 2, 3, 4]], lambda ids: seen.append(ids) or worth(ids), n=20, seed=1,
            processors=[note, SuppressTokens([0, 1])])  # fmt: skip
    assert set(prompts) == {1, 2, 3}
    assert not (np.concatenate(seen)[:, 3] < 2).any()


def test_contexts():
    model = load(MODELS / "torch_legacy_gru_context.onnx")
    (name,) = (f.name for f in model._network.contract.contexts)
    (sizes,) = (f.sizes for f in model._network.contract.contexts)
    context = np.random.default_rng(0).standard_normal((2, *sizes)).astype(np.float32) * 3
    values = rollout(model, [[1, 2, 3, 4, 5]] * 2, worth, n=400, seed=1, context={name: context})
    for row in range(2):
        alone = rollout(model, [[1, 2, 3, 4, 5]], worth, n=400, seed=2, context={name: context[row : row + 1]})
        np.testing.assert_allclose(values[row], alone[0], atol=0.9)
    assert not np.allclose(values[0, 0], values[1, 0], atol=0.05)


@pytest.mark.parametrize("masked", [True, False])
def test_an_encoder_reads_each_source_once(masked, monkeypatch):
    """Also where sources of unequal length cannot be padded, and share no batch."""
    net, read = AdditiveModel(seed=3, masked=masked), []
    model = load(net.decoder(), encoder=net.encoder())
    sources, sequences = [[1, 2, 3, 4, 5], [6, 7], [3, 3], [8]], [[1, 2, 3, 4], [0, 5, 5, 1], [7, 1, 0, 2], [2, 2]]
    run = model._network.encoders.run
    monkeypatch.setattr(model._network.encoders, "run", lambda given: read.extend(given) or run(given))
    options = {"strategy": Greedy(), "eos_token_id": None}
    values = rollout(model, sequences, worth, n=1, prompts=sources, batch_size=3, **options)
    assert len(read) == len(sources)
    for row, sequence, source in zip(values, sequences, sources, strict=True):
        for t in range(len(sequence) - 1):
            (rest,) = decode(model, [source], prefix=sequence[: t + 1], max_new_tokens=3 - t, eos_token_id=None).tokens
            assert row[t] == worth(np.array([sequence[: t + 1] + rest]))[0]


def test_completions_share_the_latent_of_their_sequence():
    model = load(Noisy().model())
    sequences = [[1, 2, 3, 4], [4, 4, 4, 4], [0, 1, 0, 1]]
    z = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32) * 2
    values = rollout(model, sequences, worth, n=1, strategy=Greedy(), latents=z, eos_token_id=None)
    for row, sequence, own in zip(values, sequences, z, strict=True):
        for t in range(3):
            (rest,) = decode(
                model, [sequence[: t + 1]], latents=own[None], max_new_tokens=3 - t, eos_token_id=None
            ).tokens
            assert row[t] == worth(np.array([sequence[: t + 1] + rest]))[0]
    step = load(Noisy().model(), roles={"latent": {"z": {"distribution": "normal", "every": "step"}}})
    with pytest.raises(OptionError, match="draws latents at every step"):
        rollout(step, sequences, worth, n=1)


def test_first_states_that_the_caller_gives():
    model = load(build.recurrent("GRU", exposed=True))
    start = np.random.default_rng(0).standard_normal((2, 1, 8)).astype(np.float32) * 2
    values = rollout(model, [[1, 2, 3]] * 2, worth, n=1, strategy=Greedy(), context={"h0": start})
    for row, own in zip(values, start, strict=True):
        for t in range(2):
            (rest,) = decode(model, [[1, 2, 3][: t + 1]], max_new_tokens=2 - t, context={"h0": own[None]}).tokens
            assert row[t] == worth(np.array([[1, 2, 3][: t + 1] + rest]))[0]


def test_a_window_of_prefixes():
    model = load(MODELS / "torch_legacy_pooled_w6.onnx", roles={"window": 6, "pad": "left"})
    values = rollout(model, [[1, 2, 3, 4]], worth, n=1, strategy=Greedy())
    for t in range(3):
        (rest,) = decode(model, [[1, 2, 3, 4][: t + 1]], max_new_tokens=3 - t).tokens
        assert values[0, t] == worth(np.array([[1, 2, 3, 4][: t + 1] + rest]))[0]


@pytest.mark.parametrize(
    "name",
    [
        "torch_dynamo_lstm_position",
        "torch_legacy_gru_step_position",
        "torch_legacy_lstm_learned_init",
        "torch_dynamo_peephole_cells_unnamed",
        "hand_lstm2_batch_last",
        "hand_loop_states",
        "hand_gru_float16",
        "tf2onnx_lstm_states",
    ],
)
def test_real_exports(name):
    """States of any layout and dtype, positions: completions are what decode() goes on with."""
    model = load(MODELS / f"{name}.onnx")
    sequences = np.random.default_rng(0).integers(0, model.vocab_size, (3, 6)).tolist()
    values = rollout(model, sequences, worth, n=1, strategy=Greedy(), eos_token_id=None)
    for row, sequence in zip(values, sequences, strict=True):
        for t in range(5):
            (rest,) = decode(model, [sequence[: t + 1]], max_new_tokens=5 - t, eos_token_id=None).tokens
            assert row[t] == worth(np.array([sequence[: t + 1] + rest]))[0]


@pytest.mark.thread_unsafe(reason="counts the process's threads")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_reward_that_fails_leaves_no_thread_behind(models, workers):
    before = threading.active_count()

    def reward(ids):
        if len(ids) > 3:
            raise ZeroDivisionError
        return worth(ids)

    with pytest.raises(ZeroDivisionError) as caught:  # kept, with its frames, as a notebook keeps the last one
        rollout(models["GRU"], np.ones((3, 200), np.int64), reward, n=50, workers=workers, batch_size=8)
    assert threading.active_count() == before, caught


def test_strings():
    model = load("shakespeare")
    values = rollout(
        model, ["ROMEO", "JULIET"], lambda ids: (ids == model.tokenizer.encode("E")[0]).sum(1), n=5, seed=1
    )
    assert values.shape == (2, 6)
    assert values[:, -1].tolist() == [1, 1]


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda ids: ids, r"reward gave an array of shape \[2, 3\]: expected \[2\]"),
        (lambda ids: 1.0, r"reward gave an array of shape \[\]: expected \[2\]"),
        (lambda ids: ["a"] * len(ids), "reward gave list: expected 2 numbers"),
        (lambda ids: np.full(len(ids), np.nan), r"reward gave NaN for the row \[1, 2, 3\]"),
    ],
)
def test_wrong_rewards(models, reward, message):
    with pytest.raises(OptionError, match=message):
        rollout(models["GRU"], [[1, 2, 3], [4, 5, 6]], reward, n=1)


def test_an_error_of_the_model_names_the_sequence_and_the_token():
    table = np.full((4, 4), 0.25)
    table[2] = np.nan
    with pytest.raises(DecodeError, match=r"sequences\[1\], a completion after token 0: .*NaN"):
        rollout(load(markov(table)), [[1, 1], [2, 1]], worth, n=1, seed=0)
