"""Guidance against the scores of the model with its condition and without, combined in NumPy."""

import numpy as np
import pytest

from decoding import (
    Beam,
    Engine,
    Ensemble,
    Greedy,
    Guidance,
    OptionError,
    Request,
    Sample,
    decode,
    load,
    score,
    stream,
)
from tests.helpers import build
from tests.helpers.ensembles import Truth
from tests.helpers.exports import SYSTEMS, system, with_contexts
from tests.helpers.latents import Noisy, Started
from tests.helpers.seq2seq import AdditiveModel

STRATEGIES = [Greedy(), Sample(), Beam(3), Sample(replacement=False)]


def check(found, truth, prompt, *, ranks):
    for h in found:
        logprobs, scores = truth.of_output(prompt, h.tokens)
        np.testing.assert_allclose(h.token_logprobs, logprobs, atol=5e-4)
        if ranks:
            np.testing.assert_allclose(h.score, scores.mean(), atol=5e-4)


@pytest.fixture(scope="module")
def frames():
    model, tokens, contexts, _ = with_contexts("legacy_window_vector")
    return model, tokens, contexts


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 4.0])
def test_contexts_are_left_out(frames, scale, strategy):
    """Logits = unconditional + scale * (conditional - unconditional), as in Hugging Face's UnbatchedClassifierFreeGuidanceLogitsProcessor."""
    model, tokens, contexts = frames
    guided, prompt = Guidance(model, scale), tokens[1][:2].tolist()
    given = {name: [values[1]] for name, values in contexts.items()}
    several = 1 if isinstance(strategy, Greedy) else 2
    found = decode(guided, [prompt], strategy, context=given, max_new_tokens=3, eos_token_id=None, num_return_sequences=several, seed=1)  # fmt: skip
    own = {name: values[1] for name, values in contexts.items()}
    without = {name: np.zeros_like(value) for name, value in own.items()}
    truth = Truth([(model, {"context": own}), (model, {"context": without})], [scale, 1 - scale])
    check(found, truth, prompt, ranks=isinstance(strategy, Beam))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_scale_1_is_the_model(frames, strategy):
    model, tokens, contexts = frames
    prompts = [ids[:2].tolist() for ids in tokens]
    options = {"max_new_tokens": 4, "eos_token_id": None, "seed": 3, "context": contexts}
    options["num_return_sequences"] = 1 if isinstance(strategy, Greedy) else 3
    found, expected = (decode(m, prompts, strategy, **options) for m in (Guidance(model, 1), model))
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_values_in_the_place_of_a_condition(frames):
    model, tokens, contexts = frames
    (name,) = contexts
    null = np.full_like(contexts[name][0], 0.7)
    prompt, given = tokens[0][:2].tolist(), {name: [contexts[name][0]]}
    truth = Truth([(model, {"context": {name: contexts[name][0]}}), (model, {"context": {name: null}})], [3, -2])
    for value in (null, 0.7):
        found = decode(
            Guidance(model, 3, null={name: value}), [prompt], context=given, max_new_tokens=3, eos_token_id=None
        )
        check(found, truth, prompt, ranks=False)


def test_what_an_encoder_feeds_is_left_out():
    """Its outputs are zeros, both memory and first state; the source is encoded once."""
    net = AdditiveModel(3, metadata={"decoding.bos": 1, "decoding.eos": 2})
    model = load(net.decoder(), encoder=net.encoder())
    plain = load(net.decoder())  # takes memory and hidden as they are
    source = [3, 4, 5]
    memory, hidden = (array.astype(np.float32) for array in net.encode(source))
    own, without = ({"memory": m, "hidden": h} for m, h in ((memory, hidden), (0 * memory, 0 * hidden)))
    truth = Truth([(plain, {"context": own}), (plain, {"context": without})], [2, -1])
    for strategy in (Greedy(), Beam(2)):
        found = decode(Guidance(model, 2), [source], strategy, max_new_tokens=3, eos_token_id=None)
        check(found, truth, [1], ranks=isinstance(strategy, Beam))
    alone = decode(Guidance(model, 2, null=["memory"]), [source], max_new_tokens=3, eos_token_id=None)
    truth = Truth([(plain, {"context": own}), (plain, {"context": {**without, "hidden": hidden}})], [2, -1])
    check(alone, truth, [1], ranks=False)


@pytest.mark.parametrize("name", sorted(p.stem for p in SYSTEMS.glob("*.onnx") if ".encoder" not in p.name))
def test_every_system_with_an_encoder_can_be_guided(name):
    """Scale 1 is the system; scale 3 has the same tokens in every batch, streamed and in an engine."""
    model, sources, tokens, _, _ = system(name)
    options = {"max_new_tokens": 3, "seed": 1, "eos_token_id": None}
    start = tokens[0][:1].tolist()
    expected = decode(model, sources, prefix=start, **options)
    assert decode(Guidance(model, 1), sources, prefix=start, **options).tokens == expected.tokens
    guided = Guidance(model, 3)
    found = decode(guided, sources, prefix=start, **options).tokens
    requests = [Request(source, prefix=start) for source in sources]
    alone = [decode(guided, request, **options)[0].tokens for request in requests]
    streamed = [[] for _ in sources]
    for event in stream(guided, sources, prefix=start, **options):
        streamed[event.prompt_index].append(event.token)
    with Engine(guided, batch_size=2, **options) as engine:
        served = [engine.submit(request).result(60)[0].tokens for request in requests]
    assert found == alone == streamed == served


@pytest.mark.parametrize("net", [Noisy(), Started("GRU")], ids=["at every step", "where it starts"])
def test_a_latent_is_the_condition_where_there_is_no_other(net):
    model = load(net.model())
    z = np.array([1.0, -0.5, 2.0], np.float32)
    found = decode(Guidance(model, 2), [[1, 2]], Beam(2), latents=[z], max_new_tokens=3, eos_token_id=None)
    truth = Truth([(model, {"latents": z}), (model, {"latents": 0 * z})], [2, -1])
    check(found, truth, [1, 2], ranks=True)
    drawn = decode(Guidance(model, 2), [[1, 2]], max_new_tokens=3, eos_token_id=None, seed=5)[0]
    np.testing.assert_array_equal(drawn.latent, decode(model, [[1, 2]], max_new_tokens=1, seed=5)[0].latent)
    truth = Truth([(model, {"latents": drawn.latent}), (model, {"latents": 0 * z})], [2, -1])
    check([drawn], truth, [1, 2], ranks=False)


def test_scores_and_states(frames):
    model, tokens, contexts = frames
    guided = Guidance(model, 2)
    given = {name: [values[0]] for name, values in contexts.items()}
    ids = tokens[0][:4].tolist()
    own, without = ({name: value[0] * factor for name, value in given.items()} for factor in (1, 0))
    truth = Truth([(model, {"context": own}), (model, {"context": without})], [2, -1])
    np.testing.assert_allclose(
        score(guided, [ids], context=given)[0][1:], truth.of_output(ids[:1], ids[1:])[0], atol=5e-4
    )

    system_model, sources, tokens, *_ = system("luong")
    guided, start = Guidance(system_model, 2), tokens[0][:1].tolist()
    first = decode(guided, [sources[0]], prefix=start, max_new_tokens=2, eos_token_id=None, return_state=True)[0]
    again = decode(guided, Request(state=first.state), max_new_tokens=3, eos_token_id=None)[0]
    whole = decode(guided, [sources[0]], prefix=start, max_new_tokens=5, eos_token_id=None)[0]
    assert [*first.tokens, *again.tokens] == whole.tokens


def test_guidance_in_an_ensemble(frames):
    model, tokens, contexts = frames
    lm = load(build.recurrent("GRU", vocab=model.vocab_size, seed=4))
    prompt, given = tokens[2][:1].tolist(), {name: [values[2]] for name, values in contexts.items()}
    ensemble = Ensemble({"guided": Guidance(model, 2), "lm": lm}, [1, 0.3])
    found = decode(ensemble, [prompt], Greedy(), context=given, max_new_tokens=3, eos_token_id=None)
    own, without = ({name: value[0] * factor for name, value in given.items()} for factor in (1, 0))
    members = [(model, {"context": own}), (model, {"context": without}), (lm, {})]
    check(found, Truth(members, [2, -1, 0.3]), prompt, ranks=False)


@pytest.mark.parametrize(
    ("scale", "null", "message"),
    [
        (float("nan"), None, "finite number"),
        ("2", None, "finite number"),
        (2, ["nothing"], "no condition 'nothing'"),
        (2, {"nothing": 0}, "no condition 'nothing'"),
        (2, "vector", "expected a list of input names"),
        (2, [], "nothing is left out"),
    ],
)
def test_wrong_arguments(frames, scale, null, message):
    with pytest.raises(OptionError, match=message):
        Guidance(frames[0], scale, null=null)


def test_a_value_that_does_not_fit(frames):
    model, _, contexts = frames
    (name,) = contexts
    with pytest.raises(OptionError, match=f"null\\['{name}'\\]"):
        Guidance(model, 2, null={name: np.zeros((3, 99))})


def test_a_model_without_a_condition():
    with pytest.raises(OptionError, match="has no condition"):
        Guidance(load(build.recurrent("GRU")), 2)


def test_describe(frames):
    model, _, contexts = frames
    (name,) = contexts
    text = Guidance(model, 2.5).describe()
    assert text.startswith(f"guidance of scale 2.5; without its condition the model has {name} (zeros)")
    assert model.describe() in text
