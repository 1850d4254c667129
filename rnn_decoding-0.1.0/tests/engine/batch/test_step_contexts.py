"""Contexts with a value for each token: which token reads which, in every search and batch, and where they end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Beam, Greedy, OptionError, Sample, TopN, decode, decode_iter, load, score
from tests.helpers.exports import CONTEXTS, context_names, with_contexts

MODELS = {name: with_contexts(name) for name in context_names("frames", "frame_step", "window_frames", "factors")}
RNG = np.random.default_rng(3)


def values(name, count):
    """Values for so many tokens of a model's step context."""
    if "factors" in name:
        return RNG.integers(0, 4, count)
    return RNG.standard_normal((count, 3)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 24), st.integers(0, 9)), min_size=1, max_size=6),
    batch_size=st.integers(1, 5),
    strategy=st.sampled_from([Greedy(), Sample(temperature=1.5), TopN(2), Beam(2), Sample(replacement=False)]),
)
def test_token_t_reads_value_t(name, lengths, batch_size, strategy):
    """Long prompts beside short ones, slots that are taken again, values that end early: each row is as it is alone."""
    model, (key,) = MODELS[name][0], MODELS[name][2]
    prompts = [RNG.integers(0, 11, length).tolist() for length, _ in lengths]
    given = [values(name, length + more) for length, more in lengths]
    out = decode(model, prompts, strategy, context={key: given}, batch_size=batch_size, max_new_tokens=6, eos_token_id=None, seed=1)  # fmt: skip
    assert len(out) == len(prompts)
    for hypothesis, prompt, own, (_, more) in zip(out, prompts, given, lengths, strict=True):
        assert (len(hypothesis.tokens), hypothesis.finish_reason) == (min(6, more + 1), "length")
        alone = score(model, [[*prompt, *hypothesis.tokens]], context={key: [own]})[0]
        np.testing.assert_allclose(hypothesis.token_logprobs, alone[len(prompt) :], atol=5e-5)


@pytest.mark.parametrize("name", context_names("frames", "frame_step"))
def test_step_inputs_may_compute_them(name):
    model, _, contexts, _ = MODELS[name]
    frames = contexts["mel"][0]

    def seen(history):
        return {"mel": np.stack([frames[len(ids) - 1] for ids in history])}

    options = {"max_new_tokens": 4, "eos_token_id": None}
    expected = decode(model, [[1, 2]], context={"mel": [frames]}, **options).tokens
    assert decode(model, [[1, 2]], step_inputs=seen, **options).tokens == expected
    with_time = lambda history: {"mel": seen(history)["mel"][:, None]}  # noqa: E731
    if "frames" in name:
        assert decode(model, [[1, 2]], step_inputs=with_time, **options).tokens == expected


def test_one_array_where_there_is_one_context():
    model, _, contexts, _ = MODELS["dynamo_frames"]
    frames = np.stack([contexts["mel"][0]] * 2)
    out = decode(model, [[1], [2, 3]], context=frames, eos_token_id=None)
    assert out.tokens == decode(model, [[1], [2, 3]], context={"mel": frames}, eos_token_id=None).tokens
    assert [len(tokens) for tokens in out.tokens] == [6, 5]


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, r"context: the model needs 'mel'; pass context=\{'mel': array \[prompts, any, 3\]\}, or step_inputs="),
        ({"mel": np.zeros((1, 9, 2))}, r"context\['mel'\] has shape \[1, 9, 2\]: expected \[1, any, 3\]"),
        ({"mel": np.zeros((9, 3))}, r"context\['mel'\] has shape \[9, 3\]: expected \[1, any, 3\]"),
        ({"mel": np.zeros((1, 2, 3))}, r"prompts\[0\]: its context 'mel' has values for 2 tokens, and 3 are read \(BOS counts\)"),
        ({"mel": np.zeros((1, 0, 3))}, r"its context 'mel' has values for 0 tokens"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", context_names("frames", "frame_step", "window_frames"))
def test_wrong_values(name, context, message):
    with pytest.raises(OptionError, match=message):
        decode(MODELS[name][0], [[1, 2, 3]], context=context)


def test_scores_need_a_value_for_every_token_but_the_last():
    model = MODELS["dynamo_frames"][0]
    assert np.isfinite(score(model, [[1, 2, 3]], context=np.zeros((1, 2, 3)))[0][1:]).all()
    with pytest.raises(OptionError, match="has values for 1 tokens, and 2 are read"):
        score(model, [[1, 2, 3]], context=np.zeros((1, 1, 3)))


def test_an_iterable_has_no_contexts_but_those_that_are_computed():
    model = MODELS["dynamo_frames"][0]
    with pytest.raises(OptionError, match="the model needs 'mel'"):
        next(decode_iter(model, [[1]]))
    out = decode_iter(model, [[1]], step_inputs=lambda history: {"mel": np.zeros((len(history), 3))}, max_new_tokens=2)
    assert len(next(out).tokens) <= 2


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_an_encoder_may_give_them(exporter):
    """A frame for each vector of features: the output is as long as its source."""
    data = np.load(CONTEXTS / f"{exporter}_conditioner.npz")
    model = load(CONTEXTS / f"{exporter}_frames.onnx", encoder=CONTEXTS / f"{exporter}_conditioner.onnx")
    plain, features = MODELS[f"{exporter}_frames"][0], data["features"][0]
    options = {"eos_token_id": None}
    expected = decode(plain, [[1, 2]], context=data["mel"], **options).tokens
    out = decode(model, [features, features[:4]], prefix=[1, 2], **options)
    assert out.tokens[0] == expected[0]
    assert [len(tokens) for tokens in out.tokens] == [6, 3]
    assert decode(model, [features], Beam(1), prefix=[1, 2], **options).tokens == expected
    found, wanted = score(model, [[1, 2, 3]], prompts=[features]), score(plain, [[1, 2, 3]], context=data["mel"])
    np.testing.assert_allclose(found[0][1:], wanted[0][1:], atol=1e-5)
    assert "step context  mel" in model.describe()
    assert "the encoder's mel" in model.describe()


def test_a_window_needs_the_values_of_all_its_tokens():
    model = MODELS["dynamo_window_frames"][0]
    with pytest.raises(OptionError, match="context: the model needs 'mel'"):
        decode(model, [[1, 2]], step_inputs=lambda history: {"mel": np.zeros((len(history), 3))})
