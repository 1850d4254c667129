"""Latents: drawn for each sequence, given, and given back."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from decoding import (
    Beam,
    DecodeError,
    Greedy,
    ModelError,
    OptionError,
    Sample,
    decode,
    decode_iter,
    kernels,
    load,
    score,
    stream,
)
from decoding.kernels import reference
from tests.helpers.build import model as make_model
from tests.helpers.build import recurrent
from tests.helpers.latents import FLOAT, INFO, INT64, NODE, H, Noisy, Started, Z
from tests.helpers.seq2seq import AdditiveModel

PROMPTS = [[1], [2, 3], [1], [4, 5, 6]]


STRATEGIES = [Greedy(), Sample(temperature=1.3), Beam(num_beams=3), Sample(replacement=False)]
KINDS = {
    "sequence": (Noisy(), None),
    "step": (Noisy(), {"latent": {"z": {"distribution": "uniform", "every": "step"}}}),
    "timed": (Noisy(timed=True), None),
}


def check(noisy, prompt, h):
    """Are the log-probabilities of a hypothesis those of NumPy with its latent?"""
    ends = [*h.tokens, *([0] if h.finish_reason == "eos" else [])]
    rows = noisy.logprobs([*prompt, *ends[:-1]], h.latent)[len(prompt) - 1 :]
    np.testing.assert_allclose(h.token_logprobs, rows[np.arange(len(ends)), ends], atol=1e-4)


@pytest.mark.parametrize("batch_size", [3, 64])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_sees_the_latent_that_the_hypothesis_has(kind, strategy, batch_size):
    noisy, roles = KINDS[kind]
    model = load(noisy.model(), roles=roles)
    outputs = 1 if isinstance(strategy, Greedy) else 2
    out = decode(
        model,
        PROMPTS,
        strategy,
        seed=5,
        max_new_tokens=6,
        eos_token_id=0,
        num_return_sequences=outputs,
        batch_size=batch_size,
    )
    for h in out:
        if kind != "sequence":
            assert h.latent.shape == (len(PROMPTS[h.prompt_index]) - 1 + len(h.token_logprobs), Z)
        check(noisy, PROMPTS[h.prompt_index], h)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_given_back_makes_the_same_output(kind, strategy):
    noisy, roles = KINDS[kind]
    model = load(noisy.model(), roles=roles)
    options = {"max_new_tokens": 6, "eos_token_id": None, "seed": 5}
    first = decode(model, PROMPTS, strategy, **options)
    second = decode(model, PROMPTS, strategy, latents=[h.latent for h in first], **options)
    assert first.tokens == second.tokens
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.latent, b.latent)
    other = decode(model, PROMPTS, strategy, latents=[h.latent + 3 for h in first], **options)
    assert first.tokens != other.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_scores_with_a_latent(kind):
    noisy, roles = KINDS[kind]
    model = load(noisy.model(), roles=roles)
    out = decode(model, PROMPTS, Sample(), seed=2, max_new_tokens=6, eos_token_id=None)
    values = score(model, [p + h.tokens for p, h in zip(PROMPTS, out, strict=True)], latents=[h.latent for h in out])
    for h, found in zip(out, values, strict=True):
        np.testing.assert_allclose(found[-6:], h.token_logprobs, atol=1e-5)


def test_draws_are_the_generators_of_their_sequence_alone():
    model = load(KINDS["sequence"][0].model())
    out = decode(model, PROMPTS, Sample(), seed=11, num_return_sequences=3, max_new_tokens=2)
    expected = reference.normal(11, np.arange(12), 0, Z).astype(np.float32)
    for i in range(4):  # ranks are in another order than sequences
        own = sorted(tuple(h.latent) for h in out.by_prompt()[i])
        np.testing.assert_allclose(own, sorted(map(tuple, expected[3 * i : 3 * i + 3])), rtol=1e-6)
    apart = decode(model, PROMPTS, Sample(), seed=11, num_return_sequences=3, max_new_tokens=2, batch_size=1, workers=2)
    assert apart.tokens == out.tokens
    beams = decode(model, PROMPTS, Beam(num_beams=3), seed=11, num_return_sequences=3, max_new_tokens=2)
    for h in beams:  # the hypotheses of one search share theirs
        np.testing.assert_allclose(h.latent, reference.normal(11, h.prompt_index, 0, Z)[0], rtol=1e-6)


def test_uniform_latents_are_uniform_and_apart_from_token_draws():
    model = load(Noisy().model(), roles={"latent": {"z": "uniform"}})
    out = decode(model, [[1]] * 2000, Greedy(), seed=3, max_new_tokens=1)
    values = np.array([h.latent for h in out]).ravel()
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * values.size)
    np.testing.assert_array_equal(
        np.array([h.latent for h in out[:3]]), kernels.uniform(3, np.arange(3), 0, Z, "latent").astype(np.float32)
    )
    assert not np.isin(
        values[:30].astype(np.float32), kernels.uniform(3, np.arange(10), 0, Z, "draw").astype(np.float32)
    ).any()


def test_streams_and_iterables_draw_the_same():
    for noisy, roles in KINDS.values():
        model = load(noisy.model(), roles=roles)
        options = {"seed": 8, "max_new_tokens": 5, "eos_token_id": None}
        expected = decode(model, PROMPTS, Sample(), **options)
        events = list(stream(model, PROMPTS, Sample(), **options))
        assert [[e.token for e in events if e.prompt_index == i] for i in range(4)] == expected.tokens
        found = sorted(
            decode_iter(model, iter(PROMPTS), Sample(), batch_size=2, **options), key=lambda h: h.prompt_index
        )
        assert [h.tokens for h in found] == expected.tokens
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.latent, b.latent)


def test_roles_may_stand_in_the_file_and_are_saved(tmp_path):
    model = load(
        Noisy(name="style").model(
            {"decoding.roles": {"latent": {"style": {"distribution": "uniform", "every": "step"}}}}
        )
    )
    assert "drawn: uniform in [0, 1), anew at every step" in model.describe()
    model.save(tmp_path / "m.onnx")
    options = {"seed": 1, "max_new_tokens": 5, "eos_token_id": None}
    assert decode(load(tmp_path / "m.onnx"), PROMPTS, **options).tokens == decode(model, PROMPTS, **options).tokens


def test_a_float_input_of_another_name_is_a_context_until_told():
    assert [f.name for f in load(Noisy(name="style").model())._network.contract.contexts] == ["style"]
    assert [f.name for f in load(Noisy().model(), roles={"context": ["z"]})._network.contract.contexts] == ["z"]


def test_an_encoder_may_take_a_latent():
    """A VAE's prior beside it: the encoder makes the decoder's first state from noise and the source."""
    system = AdditiveModel(3)
    encoder = system.encoder()
    encoder.graph.node[-1].output[0] = "mean"
    encoder.graph.node.append(NODE("Add", ["mean", "noise"], ["hidden"]))
    encoder.graph.input.append(INFO("noise", FLOAT, ["batch", 5]))
    model = load(system.decoder(), encoder=encoder)
    sources = [[1, 2, 3], [4, 5], [1, 2, 3]]
    options = {"prefix": [1], "seed": 4, "max_new_tokens": 8, "eos_token_id": None}
    out = decode(model, sources, Sample(), num_return_sequences=2, **options)
    assert len({h.latent.tobytes() for h in out}) == 6
    np.testing.assert_allclose(
        sorted(h.latent[0] for h in out), sorted(reference.normal(4, np.arange(6), 0, 5)[:, 0]), rtol=1e-5
    )
    plain = load(system.decoder(), encoder=system.encoder())
    zero = decode(model, sources, latents=np.zeros((3, 5)), **options)
    assert zero.tokens == decode(plain, sources, **options).tokens


def test_a_latent_of_every_step_that_ends_too_soon():
    model = load(Noisy(timed=True).model())
    with pytest.raises(DecodeError, match=r"sequence 0: latents\['z'\] has 2 steps, but decoding needs another"):
        decode(model, [[1]], latents=[np.zeros((2, Z))], max_new_tokens=5, eos_token_id=None)


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ({"z": "cauchy"}, r"roles\['latent'\]\['z'\]='cauchy': expected 'normal' or 'uniform'"),
        ({"z": {"every": "day"}}, r"'every': 'sequence' or 'step'"),
        ({"z": {"mean": 1}}, r"expected 'normal' or 'uniform'"),
        (["z"], r"roles\['latent'\]=\['z'\]: expected \{input: 'normal' or 'uniform'\}"),
        ({"tokens": "normal"}, r"tokens int64\[batch, time\] cannot be drawn"),
        ({"q": "normal"}, r"roles\['latent'\]: .* has no 'q' there"),
    ],
)
def test_wrong_roles(latent, message):
    with pytest.raises(OptionError, match=message):
        load(Noisy().model(), roles={"latent": latent})


def test_a_latent_of_unknown_size():
    proto = Noisy().model()
    proto.graph.input[2].CopyFrom(INFO("z", FLOAT, ["batch", "size"]))
    with pytest.raises(
        ModelError,
        match=r"the latent z float32\[batch, size\] cannot be drawn, since a size after its batch is not fixed",
    ):
        load(proto)


# -- first states computed from a latent ---------------------------------------------------------------------


STARTED = [("GRU", False, True), ("GRU", True, False), ("LSTM", False, False), ("LSTM", True, True)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("started", STARTED)
def test_a_latent_starts_the_states_of_its_sequence(started, strategy, batch_size):
    vae, outputs = Started(*started), 1 if isinstance(strategy, Greedy) else 3
    options = {"seed": 5, "max_new_tokens": 6, "eos_token_id": 0, "batch_size": batch_size}
    model = load(vae.model())
    out = decode(model, PROMPTS, strategy, num_return_sequences=outputs, **options)
    for h in out:
        check(vae, PROMPTS[h.prompt_index], h)
    shared = strategy in STRATEGIES[2:]  # by the outputs of one search
    assert len({h.latent.tobytes() for h in out}) == len(PROMPTS) * (1 if shared else outputs)
    again = decode(model, PROMPTS, strategy, num_return_sequences=outputs, **options)
    assert again.tokens == out.tokens
    best = [hypotheses[0] for hypotheses in out.by_prompt()]
    shifted = decode(model, PROMPTS, strategy, latents=[h.latent + 2 for h in best], **options)
    for h, before in zip(shifted, best, strict=True):
        np.testing.assert_array_equal(h.latent, before.latent + 2)
        check(vae, PROMPTS[h.prompt_index], h)


@pytest.mark.parametrize("started", STARTED)
def test_a_latent_that_starts_states_is_given_back_scored_and_run(started):
    vae = Started(*started)
    model = load(vae.model())
    assert "starts from values that the graph computes from z" in model.describe()
    out = decode(model, PROMPTS, seed=2, max_new_tokens=6, eos_token_id=None)
    latents = [h.latent for h in out]
    assert decode(model, PROMPTS, latents=latents, max_new_tokens=6, eos_token_id=None).tokens == out.tokens
    assert out.tokens != decode(model, PROMPTS, seed=3, max_new_tokens=6, eos_token_id=None).tokens
    whole = [p + h.tokens for p, h in zip(PROMPTS, out, strict=True)]
    for ids, z, found in zip(whole, latents, score(model, whole, latents=latents), strict=True):
        rows = vae.logprobs(ids, z)[:-1]
        np.testing.assert_allclose(found[1:], rows[np.arange(len(rows)), ids[1:]], atol=1e-4)
    same = [[1, 2, 3]] * 3  # sequences of one beginning start apart
    drawn = reference.normal(4, np.arange(3), 0, Z).astype(np.float32)
    for z, found in zip(drawn, score(model, same, seed=4), strict=True):
        np.testing.assert_allclose(found[1:], vae.logprobs([1, 2], z)[[0, 1], [2, 3]], atol=1e-4)
    logits = model.run({"tokens": [[1], [1], [1]]}, seed=4)["logits"][:, 0].astype(float)
    expected = np.stack([vae.logprobs([1], z)[0] for z in drawn])
    np.testing.assert_allclose(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), expected, atol=1e-4)
    values = {n: a * np.float32(0.5) for n, a in vae.values.items() if n == "lh"}
    halved = Started(*started)
    halved.values |= values
    for h in decode(model.with_weights(values), PROMPTS, Sample(), seed=9, max_new_tokens=5, eos_token_id=None):
        check(halved, PROMPTS[h.prompt_index], h)


def test_an_encoder_may_give_the_latent_that_starts_states():
    vae, rng = Started("GRU"), np.random.default_rng(2)
    w = rng.normal(size=(4, Z)).astype(np.float32)
    ports = [INFO("features", FLOAT, ["batch", 4])], [INFO("z", FLOAT, ["batch", Z])]
    tensor = numpy_helper.from_array(w, "w")
    encoder = make_model(helper.make_graph([NODE("MatMul", ["features", "w"], ["z"])], "encoder", *ports, [tensor]))
    model = load(vae.model(), encoder=encoder)
    features = rng.normal(size=(3, 4)).astype(np.float32)
    out = decode(model, features, prefix=[1], max_new_tokens=6, eos_token_id=None)
    expected = decode(load(vae.model()), [[1]] * 3, latents=features @ w, max_new_tokens=6, eos_token_id=None)
    assert out.tokens == expected.tokens


@pytest.mark.parametrize("sizes", [("batch", "time"), ("batch", 4), (1, 4)])
@pytest.mark.parametrize("spread", ["Expand", "Tile"])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_a_latent_that_was_spread_over_the_steps_of_the_example(cell, spread, sizes):
    """`z[:, None].expand(-1, 4, -1)` and `.repeat(1, 4, 1)`, however many steps the file declares."""
    vae = Started(cell, each_step=True)
    model = load(vae.model((spread, [1, 4, 1]), sizes))
    assert "spreads over as many steps as there are tokens, not 4" in model.describe()
    for h in decode(model, PROMPTS, Sample(), seed=1, max_new_tokens=7, eos_token_id=None):
        check(vae, PROMPTS[h.prompt_index], h)


def test_steps_of_the_example_that_cannot_be_freed_are_named():
    with pytest.raises(
        ModelError, match=r"traced for exactly 4 steps, .* export it with a dynamic time axis, or for one"
    ):
        load(Started("GRU", each_step=True).model(("Expand", [2, 4, Z]), ("batch", 4)))


def test_a_latent_of_every_step_starts_no_state():
    with pytest.raises(
        ModelError, match=r"starts from the latent z, which is drawn anew at every step; an initial state needs"
    ):
        load(Started("GRU").model(), roles={"latent": {"z": {"distribution": "normal", "every": "step"}}})


# -- plain runs ----------------------------------------------------------------------------------------------


def generator(label=False):
    rng = np.random.default_rng(1)
    values = {"w": rng.normal(size=(4, 6)).astype(np.float32), "table": rng.normal(size=(3, 6)).astype(np.float32)}
    nodes = [NODE("MatMul", ["noise", "w"], ["x"])]
    inputs = [INFO("noise", FLOAT, ["batch", 4])]
    if label:
        nodes += [NODE("Gather", ["table", "label"], ["e"]), NODE("Add", ["x", "e"], ["y"])]
        inputs.append(INFO("label", INT64, ["batch"]))
    nodes.append(NODE("Tanh", ["y" if label else "x"], ["image"]))
    tensors = [numpy_helper.from_array(v, n) for n, v in values.items() if label or n == "w"]
    graph = helper.make_graph(nodes, "generator", inputs, [INFO("image", FLOAT, ["batch", 6])], tensors)
    return make_model(graph), values


def test_a_plain_generator_is_run_and_refuses_to_be_decoded(tmp_path):
    proto, values = generator()
    model = load(proto)
    image = model.run(seed=7, batch_size=3)["image"]
    np.testing.assert_allclose(image, np.tanh(reference.normal(7, np.arange(3), 0, 4) @ values["w"]), atol=1e-5)
    np.testing.assert_allclose(
        model.run({"noise": np.ones((2, 4))})["image"], np.tanh(np.ones((2, 4)) @ values["w"]), atol=1e-5
    )
    assert model.run()["image"].shape == (1, 6)
    assert "noise float32[batch, 4]  drawn: standard normal, once a sequence" in model.describe()
    model.save(tmp_path / "g.onnx")
    np.testing.assert_array_equal(load(tmp_path / "g.onnx").run(seed=7, batch_size=3)["image"], image)
    for call in (
        lambda: decode(model),
        lambda: score(model, [[1]]),
        lambda: list(stream(model)),
        lambda: list(decode_iter(model, [[1]])),
    ):
        with pytest.raises(
            ModelError,
            match=r"a plain generator: it has no steps to decode; call model.run\(seed=...\), which draws noise and returns arrays",
        ):
            call()


def test_a_plain_generator_takes_no_encoder():
    with pytest.raises(
        ModelError, match=r"a plain generator, which has no contexts or states for the encoder .* to feed"
    ):
        load(generator()[0], encoder=AdditiveModel(3).encoder())


def test_a_generator_with_a_label():
    proto, values = generator(label=True)
    model = load(proto)
    found = model.run({"label": [2, 0]}, seed=1)["image"]
    np.testing.assert_allclose(
        found, np.tanh(reference.normal(1, [0, 1], 0, 4) @ values["w"] + values["table"][[2, 0]]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (None, {}, r"inputs: the ModelProto needs 'label' too, which is no latent"),
        ({"labels": [1]}, {}, r"inputs: the ModelProto has no 'labels'; it takes noise; label"),
        ({"label": [1], "noise": np.zeros((2, 4))}, {}, r"different numbers of rows: \{'label': 1, 'noise': 2\}"),
        ({"label": [1]}, {"batch_size": 3}, r"different numbers of rows: \{'label': 1, 'batch_size': 3\}"),
        ({"label": ["a"]}, {}, r"inputs\['label'\]: expected int64 numbers"),
        ([1], {}, r"inputs: list: expected a dict"),
        ({"label": [1]}, {"seed": -1}, r"seed=-1: expected a whole number"),
    ],
)
def test_wrong_runs(inputs, options, message):
    with pytest.raises(OptionError, match=message):
        load(generator(label=True)[0]).run(inputs, **options)


def test_a_step_graph_runs_plainly_too():
    noisy = KINDS["sequence"][0]
    model = load(noisy.model())
    out = model.run({"tokens": [[1, 2, 3], [4, 5, 6]]}, seed=9)
    assert out["h1"].shape == (1, 2, H)
    z = reference.normal(9, [0, 1], 0, Z)
    for i, ids in enumerate([[1, 2, 3], [4, 5, 6]]):
        logits = out["logits"][i].astype(float)
        found = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(found, noisy.logprobs(ids, z[i]), atol=1e-4)
    with pytest.raises(OptionError, match=r"inputs: .* needs 'tokens' too; it takes tokens"):
        model.run(seed=1)


def test_a_plain_run_takes_contexts_and_tells_where_they_end():
    system = AdditiveModel(3)
    memory, hidden = system.encode([1, 2, 3])
    out = load(system.decoder()).run({"token": [1], "memory": memory[None], "hidden": hidden[None]})
    np.testing.assert_allclose(out["attention"][0], system.steps([1, 2, 3], [1])[1][0], atol=1e-5)


def test_a_model_without_latents_is_as_it_was():
    out = decode(load(recurrent()), [[1]], max_new_tokens=2)
    assert out[0].latent is None
