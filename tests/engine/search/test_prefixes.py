"""Prompts that members of an ensemble have of their own, against each member's own scores, combined in NumPy."""

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
    decode_iter,
    load,
    rollout,
    score,
    stream,
)
from tests.helpers import build
from tests.helpers.ensembles import STRATEGIES, combined, log_softmax, members_of_every_kind, next_logprobs
from tests.helpers.ensembles import VOCAB as V
from tests.helpers.exports import with_contexts
from tests.helpers.latents import Noisy
from tests.helpers.seq2seq import AdditiveModel

FIRST, SECOND = [[1, 4, 2], [3], [5, 5, 6, 0, 2], [2, 6]], [[7], [8, 1, 1, 2], [4, 3, 2, 1, 0], [0]]
BY_MEMBER = {"a": FIRST, "b": SECOND}


@pytest.fixture(scope="module")
def models():
    return members_of_every_kind()


def truth(members, weights, prompts, tokens, combine="logprobs"):
    """The log-probability and the added score of each new token; each member reads its own prompt, then the same tokens."""
    logprobs, scores = [], []
    for t, token in enumerate(tokens):
        each = [
            next_logprobs(model, [*prompt, *tokens[:t]], **inputs)
            for (model, inputs), prompt in zip(members, prompts, strict=True)
        ]
        total = combined(each, weights, combine)
        logprobs.append(log_softmax(total)[token])
        scores.append(total[token])
    return np.array(logprobs), np.array(scores)


def check(found, members, weights, by_member, *, ranks, combine="logprobs"):
    members = [one if isinstance(one, tuple) else (one, {}) for one in members]
    for h in found:
        prompts = [own[h.prompt_index] for own in by_member]
        logprobs, scores = truth(members, weights, prompts, h.tokens, combine)
        np.testing.assert_allclose(h.token_logprobs, logprobs, atol=2e-4)
        if ranks:
            np.testing.assert_allclose(h.score, scores.mean(), atol=2e-4)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("batch_size", [2, 64])
@pytest.mark.parametrize(
    ("kinds", "weights", "combine"),
    [
        (("native", "onnxruntime"), [1, 0.3], "logprobs"),
        (("window", "native"), [1.5, -0.5], "logprobs"),
        (("softmax", "window"), [1, 3], "probs"),
    ],
)
def test_each_member_reads_its_own_prompt(models, kinds, weights, combine, strategy, batch_size):
    members = [models[kind] for kind in kinds]
    ensemble = Ensemble(dict(zip("ab", members, strict=True)), weights, combine)
    several = 1 if isinstance(strategy, Greedy) else 3
    options = {"max_new_tokens": 4, "eos_token_id": None, "num_return_sequences": several, "seed": 4}
    found = decode(ensemble, BY_MEMBER, strategy, batch_size=batch_size, **options)
    assert len(found) == len(FIRST) * several
    check(found, members, weights, [FIRST, SECOND], ranks=isinstance(strategy, Beam), combine=combine)
    if isinstance(strategy, Greedy):
        for h in found:
            prompts = FIRST[h.prompt_index], SECOND[h.prompt_index]
            for t, token in enumerate(h.tokens):
                each = [next_logprobs(m, [*p, *h.tokens[:t]]) for m, p in zip(members, prompts, strict=True)]
                assert token == np.argmax(combined(each, weights, combine))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_equal_prompts_by_member_are_one_prompt(models, strategy):
    ensemble = Ensemble({"a": models["native"], "b": models["window"]})
    options = {"max_new_tokens": 5, "eos_token_id": 3, "seed": 4}
    expected, found = (decode(ensemble, p, strategy, **options) for p in (FIRST, {"a": FIRST, "b": FIRST}))
    assert found.tokens == expected.tokens
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_long_prompts_are_read_in_chunks_beside_others(models):
    """Longer than a chunk; and requests with prompts of members' own run beside those without."""
    rng = np.random.default_rng(3)
    members = [models["native"], models["onnxruntime"]]
    ensemble = Ensemble(members, [1, 0.5])
    first, second = rng.integers(0, V, 700).tolist(), rng.integers(0, V, 1100).tolist()
    requests = [Request({"member0": first, "member1": second}), Request(second), Request({"member1": first, "member0": [2]})]  # fmt: skip
    found = decode(ensemble, requests, max_new_tokens=3, eos_token_id=None, batch_size=2)
    check(found, members, [1, 0.5], [[first, second, [2]], [second, second, first]], ranks=False)


def test_streams_iterators_and_engines_give_the_tokens_of_decode(models):
    ensemble = Ensemble({"a": models["native"], "b": models["onnxruntime"]}, [1, 0.4])
    options = {"max_new_tokens": 6, "eos_token_id": 3, "seed": 2}
    expected = decode(ensemble, BY_MEMBER, Sample(), **options)
    streamed = [[] for _ in FIRST]
    for event in stream(ensemble, BY_MEMBER, Sample(), **options):
        streamed[event.prompt_index] += [event.token] if event.finish_reason != "eos" else []
    assert streamed == expected.tokens
    requests = [Request({"a": a, "b": b}) for a, b in zip(FIRST, SECOND, strict=True)]
    for prompts in (requests, iter(requests)):
        found = sorted(decode_iter(ensemble, prompts, Sample(), **options), key=lambda h: h.prompt_index)
        assert [h.tokens for h in found] == expected.tokens
    several = [Request(r.prompt, s, seed=i) for i, (r, s) in enumerate(zip(requests, STRATEGIES, strict=False))]
    alone = [decode(ensemble, request, **options)[0].tokens for request in several]
    with Engine(ensemble, batch_size=3, **options) as engine:
        for _ in range(2):  # known states would be those of other prompts
            tickets = [engine.submit(request) for request in several]
            assert [ticket.result(60)[0].tokens for ticket in tickets] == alone
        long = {"a": [1] * 40, "b": [2] * 50}
        once = engine.submit(Request(long, seed=1)).result(60)[0].tokens
        assert engine.submit(Request([1] * 40, seed=1)).result(60)[0].tokens == decode(ensemble, [1] * 40, **options)[0].tokens  # fmt: skip
        assert once == decode(ensemble, Request(long, seed=1), **options)[0].tokens


@pytest.mark.parametrize("kinds", [("native", "onnxruntime"), ("window", "softmax")])
def test_score_and_member_logprobs(models, kinds):
    members = [models[kind] for kind in kinds]
    ensemble = Ensemble(dict(zip("ab", members, strict=True)), [1, -0.3])
    found = decode(ensemble, BY_MEMBER, Sample(), max_new_tokens=6, eos_token_id=3, seed=1, return_member_logprobs=True)
    whole = [[*h.tokens, *([3] if h.finish_reason == "eos" else [])] for h in found]
    for own, h in zip(score(ensemble, whole, prompts=BY_MEMBER), found, strict=True):
        np.testing.assert_allclose(own, h.token_logprobs, atol=1e-4)
    for member, prompts, row in zip(members, (FIRST, SECOND), range(2), strict=True):
        for h, prompt, ids in zip(found, prompts, whole, strict=True):
            expected = score(member, [[*prompt, *ids]])[0][len(prompt) :]
            np.testing.assert_allclose(h.member_logprobs[row], expected, atol=1e-4)
    (own,) = score(ensemble, [whole[0]], prompts=FIRST[0])
    np.testing.assert_allclose(own, score(ensemble, [[*FIRST[0], *whole[0]]])[0][len(FIRST[0]) :], atol=1e-5)


def test_outputs_go_on_from_a_state(models):
    ensemble = Ensemble({"a": models["native"], "b": models["window"]}, [1, 0.4])
    options = {"eos_token_id": None}
    whole = decode(ensemble, BY_MEMBER, max_new_tokens=8, **options)
    for prompt, expected in enumerate(whole.tokens):
        request = Request({"a": FIRST[prompt], "b": SECOND[prompt]}, return_state=True)
        for count in (1, 3):
            begun = decode(ensemble, request, max_new_tokens=count, **options)[0]
            more = decode(ensemble, Request(state=begun.state, return_state=True), max_new_tokens=2, **options)[0]
            assert begun.tokens + more.tokens == expected[: count + 2]
            new = expected[count + 2 : -1]
            rest = decode(ensemble, Request(new, state=more.state), max_new_tokens=1, **options)[0]
            assert rest.tokens == expected[-1:]
    # EOS at once: the state is that of the prompts alone.
    nothing = decode(ensemble, request, max_new_tokens=1, eos_token_id=[whole.tokens[-1][0]])[0]
    assert nothing.tokens == []
    assert decode(ensemble, Request(state=nothing.state), max_new_tokens=8, **options)[0].tokens == whole.tokens[-1]


@pytest.mark.parametrize("name", ["decoding.start", "decoding.prefix.b"])
def test_a_damaged_state(models, name):
    ensemble = Ensemble({"a": models["native"], "b": models["onnxruntime"]})
    state = decode(ensemble, Request({"a": [1, 2], "b": [3]}, return_state=True), max_new_tokens=2)[0].state
    with pytest.raises(OptionError, match=name):
        decode(ensemble, Request(state={**state, name: np.array(V)}))


def test_rollouts(models):
    """Values of a greedy completion against decode() from each member's prompt and the beginning."""
    ensemble = Ensemble({"a": models["native"], "b": models["onnxruntime"]}, [1, 0.5])
    sequences = [[4, 4, 1, 2], [6, 2], [3, 3, 3]]
    by_member = {"a": [[1, 2], [5], [0, 0, 0]], "b": [[7, 7, 7], [2, 1], [8]]}
    weights = np.arange(1.0, 8.0)

    def reward(ids):
        return ids[:, : len(weights)] @ weights[: ids.shape[1]]

    found = rollout(ensemble, sequences, reward, n=1, strategy=Greedy(), prompts=by_member, max_new_tokens=2, eos_token_id=None)  # fmt: skip
    for row, own in enumerate(sequences):
        for t in range(len(own) - 1):
            begun = {name: [*prompts[row], *own[: t + 1]] for name, prompts in by_member.items()}
            new = decode(ensemble, {name: [ids] for name, ids in begun.items()}, max_new_tokens=2, eos_token_id=None)[0]
            ids = np.array([*own[: t + 1], *new.tokens])
            assert found[row, t] == pytest.approx(float(reward(np.pad(ids, (0, 5 - len(ids)))[None])[0]))


def test_contexts_of_members(models):
    model, tokens, contexts, _ = with_contexts("legacy_window_vector")
    ensemble = Ensemble({"a": model, "b": model}, [1, 0.5])
    prompts = [[ids[:2].tolist() for ids in tokens], [ids[1:4].tolist() for ids in tokens]]
    found = decode(ensemble, {"a": prompts[0], "b": prompts[1]}, Beam(3), context=contexts, max_new_tokens=3, eos_token_id=None)  # fmt: skip
    for h in found:
        given = {"context": {name: values[h.prompt_index] for name, values in contexts.items()}}
        own = [[each[h.prompt_index]] for each in prompts]
        logprobs, _ = truth([(model, given), (model, given)], [1, 0.5], [each[0] for each in own], h.tokens)
        np.testing.assert_allclose(h.token_logprobs, logprobs, atol=2e-4)


def test_prefixes_of_members_with_encoders():
    """A translator that begins with a token for the language, and a language model that begins with BOS."""
    net = AdditiveModel(1, metadata={"decoding.bos": 1})
    translator = load(net.decoder(), encoder=net.encoder())
    lm = load(build.recurrent("GRU", vocab=translator.vocab_size, seed=4, metadata={"decoding.bos": 1}))
    ensemble = Ensemble({"mt": translator, "lm": lm}, [1, 0.3])
    sources, prefix = [[3, 4, 5], [5, 2]], {"mt": [[1, 5], [1, 2, 3]]}
    found = decode(ensemble, {"mt": sources}, Beam(3), prefix=prefix, max_new_tokens=4, eos_token_id=None)
    for h in found:
        i = h.prompt_index
        members = [(translator, {"prompts": sources[i]}), (lm, {})]
        logprobs, scores = truth(members, [1, 0.3], [prefix["mt"][i], [1]], h.tokens)
        np.testing.assert_allclose(h.token_logprobs, logprobs, atol=2e-4)
        np.testing.assert_allclose(h.score, scores.mean(), atol=2e-4)
    scores = score(ensemble, found.tokens, prompts=sources, prefix=prefix)
    for own, h in zip(scores, found, strict=True):
        np.testing.assert_allclose(own, h.token_logprobs, atol=1e-4)
    requests = [Request(sources[i], prefix={"mt": prefix["mt"][i]}) for i in range(2)]
    assert decode(ensemble, requests, Beam(3), max_new_tokens=4, eos_token_id=None).tokens == found.tokens
    one = decode(ensemble, [Request(s) for s in sources], prefix={"mt": [1, 5]}, max_new_tokens=4, eos_token_id=None)
    assert one.tokens == decode(ensemble, sources, prefix={"mt": [1, 5], "lm": [1]}, max_new_tokens=4, eos_token_id=None).tokens  # fmt: skip


# -- negative prompts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("kind", ["native", "window"])
def test_a_negative_prompt(models, kind, strategy):
    """Scores are unconditional + scale * (conditional - unconditional), as Hugging Face's `negative_prompt_ids`."""
    model, scale, negative = models[kind], 2.5, [8, 1, 1, 2]
    guided = Guidance(model, scale, negative_prompt=negative)
    several = 1 if isinstance(strategy, Greedy) else 2
    options = {"max_new_tokens": 3, "eos_token_id": None, "num_return_sequences": several, "seed": 1}
    found = decode(guided, FIRST, strategy, **options)
    check(found, [model, model], [scale, 1 - scale], [FIRST, [negative] * 4], ranks=isinstance(strategy, Beam))
    by_name = {"conditional": FIRST, "unconditional": negative}
    plain = Guidance(model, scale, negative_prompt=[0])
    assert decode(plain, by_name, strategy, **options).tokens == found.tokens
    scores = score(guided, found.tokens, prompts=[FIRST[h.prompt_index] for h in found])
    for own, h in zip(scores, found, strict=True):
        np.testing.assert_allclose(own, h.token_logprobs, atol=2e-4)


def test_scale_1_is_the_model_whatever_the_negative_prompt(models):
    options = {"max_new_tokens": 6, "eos_token_id": None, "seed": 3}
    guided = Guidance(models["native"], 1, negative_prompt=[4, 4, 4])
    assert decode(guided, FIRST, Sample(), **options).tokens == decode(models["native"], FIRST, Sample(), **options).tokens  # fmt: skip


def test_a_negative_prompt_within_an_ensemble(models):
    a, b = models["native"], models["onnxruntime"]
    ensemble = Ensemble({"guided": Guidance(a, 2, negative_prompt=[7, 7]), "other": b}, [1, 0.5])
    prompts = {"other": SECOND, "guided": {"conditional": FIRST}}
    found = decode(ensemble, prompts, max_new_tokens=4, eos_token_id=None)
    for h in found:
        first, second = FIRST[h.prompt_index], SECOND[h.prompt_index]
        for t, token in enumerate(h.tokens):
            own = h.tokens[:t]
            guided = log_softmax(combined([next_logprobs(a, [*first, *own]), next_logprobs(a, [7, 7, *own])], [2, -1]))
            total = log_softmax(combined([guided, next_logprobs(b, [*second, *own])], [1, 0.5]))
            np.testing.assert_allclose(h.token_logprobs[t], total[token], atol=2e-4)
            assert token == total.argmax()
    assert (
        decode(ensemble, FIRST, max_new_tokens=4, eos_token_id=None).tokens
        == decode(ensemble, {"guided": FIRST, "other": FIRST}, max_new_tokens=4, eos_token_id=None).tokens
    )


def test_what_guidance_tells_of_a_negative_prompt():
    model = load(build.recurrent("GRU", vocab=4, metadata={"decoding.bos": 0}), tokenizer=list("^abc"))
    guided = Guidance(model, 2, negative_prompt="ab")
    assert "its negative prompt is " in guided.describe()
    assert guided.negative_prompt[-2:] == (1, 2)
    assert guided.fingerprint != Guidance(model, 2, negative_prompt="ba").fingerprint
    assert Guidance(model, 2, negative_prompt="").negative_prompt == (0,)


# -- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"a": [[1]], "c": [[1]]}, "no member 'c'; .* has a, b"),
        ({"a": [[1], [2]], "b": [[1], [2], [3]]}, r"different numbers of prompts: \{'a': 2, 'b': 3\}"),
        ({"a": [[1]], "b": [[99]]}, r"prompts\['b'\]\[0\]: id 99 at position 0"),
        ({"a": [[1]]}, r"prompts\['b'\]\[0\] is empty and .* has no BOS"),
        ({"a": [[1]], "b": {"x": [[1]]}}, r"prompts\['b'\]: a dict of prompts is for the members of an ensemble"),
        ({"a": [[1]], "b": "text"}, r"prompts\['b'\]: .* has no vocabulary"),
    ],
)
def test_wrong_prompts_by_member(models, prompts, message):
    ensemble = Ensemble({"a": models["native"], "b": models["onnxruntime"]})
    for call in (decode, stream, lambda *args: score(ensemble, [[1]], prompts=args[1])):
        with pytest.raises(OptionError, match=message):
            call(ensemble, prompts)


def test_prompts_by_member_of_one_model(models):
    with pytest.raises(OptionError, match="for the members of an ensemble"):
        decode(models["native"], {"a": [[1]]})
    with pytest.raises(OptionError, match="not an ensemble with an encoder"):
        score(models["native"], [[1]], prefix=[[1]])


def test_what_does_not_go_with_prompts_of_members(models):
    model = with_contexts("legacy_window_vector")[0]
    prompts = {"a": [[1, 2]], "b": [[3]]}
    with pytest.raises(OptionError, match=r"step_inputs: .* members with different prompts"):
        decode(Ensemble({"a": model, "b": model}), prompts, step_inputs=lambda history: {})
    noisy = load(Noisy(5).model())
    with pytest.raises(OptionError, match="draws latents at every token"):
        decode(Ensemble({"a": noisy, "b": noisy}), prompts)


@pytest.mark.parametrize(
    ("negative", "message"),
    [
        ([99], "id 99"),
        ("text", "has no vocabulary"),
        ([], "it is empty"),
        ([0.5], "whole-number ids"),
        (3, "whole-number ids"),
    ],
)
def test_wrong_negative_prompts(models, negative, message):
    with pytest.raises(OptionError, match=message):
        Guidance(models["native"], 2, negative_prompt=negative)


def test_models_without_a_condition_are_told_of_negative_prompts(models):
    with pytest.raises(OptionError, match="negative_prompt="):
        Guidance(models["native"], 2)
    net = AdditiveModel(1, metadata={"decoding.bos": 1})
    with pytest.raises(OptionError, match="has an encoder"):
        Guidance(load(net.decoder(), encoder=net.encoder()), 2, negative_prompt=[1])
