"""What an ensemble takes and refuses, and what it tells of itself."""

import numpy as np
import pytest
from onnx import numpy_helper

import decoding
from decoding import Beam, Ensemble, ModelError, OptionError, Sample, decode, load, score
from tests.helpers import build
from tests.helpers.latents import Noisy
from tests.helpers.seq2seq import AdditiveModel
from tests.helpers.tokenizers import hugging_face


def lm(seed=1, vocab=6, **metadata):
    return load(
        build.recurrent("GRU", vocab=vocab, seed=seed, metadata={f"decoding.{k}": v for k, v in metadata.items()})
    )


@pytest.fixture(scope="module")
def models():
    return [lm(seed) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "no members"),
        ({}, "no members"),
        (None, "expected a list of models"),
        ("shakespeare", "expected a list of models"),
        ({"a.b": 1}, "no name of a member"),
        ({3: 1}, "no name of a member"),
    ],
)
def test_wrong_members(members, message):
    with pytest.raises(OptionError, match=message):
        Ensemble(members)


def test_what_is_no_model_is_refused_as_load_refuses_it():
    with pytest.raises(OptionError, match="found int"):
        Ensemble([3])
    with pytest.raises(ModelError):
        Ensemble(["no_such_model"])


def test_paths_are_loaded(tmp_path, models):
    models[0].save(tmp_path / "one.onnx")
    found = decode(Ensemble([tmp_path / "one.onnx", models[1]]), [[1]], max_new_tokens=5)
    assert found.tokens == decode(Ensemble(models), [[1]], max_new_tokens=5).tokens


@pytest.mark.parametrize(
    ("weights", "combine", "message"),
    [
        ([1], "logprobs", "found 1; expected 2 numbers"),
        ([1, 2, 3], "logprobs", "found 3; expected 2 numbers"),
        (0.5, "logprobs", "found 0.5"),
        ("ab", "logprobs", "found 'ab'"),
        ([1, float("nan")], "logprobs", "nan for member1"),
        ([1, float("inf")], "logprobs", "inf for member1"),
        ([True, 1], "logprobs", "True for member0"),
        ([1, "x"], "logprobs", "'x' for member1"),
        ([0, 0], "logprobs", "all are 0"),
        ([1, -1], "probs", "at least 0"),
        ({"a": 1, "b": 2}, "logprobs", "expected one for each of member0, member1"),
        (None, "mean", "expected 'logprobs' or 'probs'"),
        (None, ["probs"], "expected 'logprobs' or 'probs'"),
    ],
)
def test_wrong_weights(models, weights, combine, message):
    with pytest.raises(OptionError, match=message):
        Ensemble(models, weights, combine)


def test_the_forms_of_weights(models):
    assert Ensemble(models).weights == {"member0": 0.5, "member1": 0.5}
    assert Ensemble(models, np.array([1, 0.3])).weights == {"member0": 1.0, "member1": 0.3}
    named = Ensemble({"mt": models[0], "lm": models[1]}, {"lm": 0.3, "mt": 1})
    assert list(named.weights.items()) == [("mt", 1.0), ("lm", 0.3)]


# -- vocabularies --------------------------------------------------------------------------------------------------


def test_vocabularies_of_other_sizes():
    with pytest.raises(ModelError, match=r"member0 .* and member1 .* vocabularies of 6 and 7 tokens"):
        Ensemble([lm(), lm(vocab=7)])


def test_the_first_token_that_differs_is_named():
    net = build.recurrent("GRU", vocab=4)
    with pytest.raises(ModelError, match=r"id 2 is 'c' in member0 .* and 'x' in member2"):
        Ensemble([load(net, tokenizer=list("abcd")), load(net), load(net, tokenizer=list("abxd"))])


def test_tokenizers_of_two_kinds_are_compared_by_their_texts():
    pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install '.[text]')")
    tokenizer = hugging_face("byte_level")
    size = tokenizer.get_vocab_size()
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(size)]
    one, other = (build.recurrent("GRU", vocab=size, seed=seed) for seed in (1, 2))
    whole = Ensemble([load(one, tokenizer=tokenizer), load(other, tokenizer=texts)])
    assert whole.tokenizer is not None
    texts[3] += "?"
    with pytest.raises(ModelError, match="id 3 is"):
        Ensemble([load(one, tokenizer=tokenizer), load(other, tokenizer=texts)])


@pytest.mark.parametrize(("kind", "name"), [("eos", "eos_token_id"), ("bos", "bos_token_id"), ("pad", "pad_token_id")])
def test_special_ids_that_differ(kind, name):
    with pytest.raises(ModelError, match=rf"{name} is .*2.* in member0 and .*3.* in member1"):
        Ensemble([lm(**{kind: 2}), lm(**{kind: 3})])
    assert getattr(Ensemble([lm(), lm(**{kind: 3})]), name) in (3, (3,))


def test_special_ids_in_another_order_are_the_same():
    assert set(Ensemble([lm(eos=[2, 3]), lm(eos=[3, 2])]).eos_token_id) == {2, 3}


def test_the_shortest_of_the_longest_outputs():
    assert Ensemble([lm(max_new_tokens=30), lm(), lm(max_new_tokens=20)]).max_new_tokens == 20


# -- what a model has ----------------------------------------------------------------------------------------------


def test_describe(models):
    text = Ensemble({"mt": models[0], "lm": models[1]}, [1, -0.3]).describe()
    assert "ensemble of 2: the weighted sum of log-probabilities" in text
    assert "mt, weight 1:" in text
    assert "lm, weight -0.3:" in text
    assert all(line in text for model in models for line in model.describe().splitlines())
    assert "weighted mean of probabilities" in Ensemble(models, combine="probs").describe()


def test_what_an_ensemble_cannot_do_says_what_to_do(models, tmp_path):
    ensemble = Ensemble(models)
    with pytest.raises(OptionError, match="save\\(\\) each of its members"):
        ensemble.save(tmp_path / "all.onnx")
    with pytest.raises(OptionError, match="call with_weights\\(\\) on a member"):
        ensemble.with_weights({})
    with pytest.raises(OptionError, match="call run\\(\\) of a member"):
        ensemble.run({})
    for options in ({"return_attention": True}, {"strategy": Beam(2, coverage_penalty=1)}):
        with pytest.raises(
            OptionError, match=r"is an ensemble, whose members with attention \(none\).* with that member alone"
        ):
            decode(ensemble, [[1]], **options)


def test_the_attention_of_a_member_to_an_output_of_the_ensemble():
    """As the error for `return_attention` says: by that member alone, with the output as its teacher."""
    dates, source = load("dates"), "3 mai 2026"
    ensemble = Ensemble({"mt": dates, "other": Ensemble([dates])}, [1, -0.2])
    with pytest.raises(OptionError, match=r"whose members with attention \(mt\)"):
        decode(ensemble, source, return_attention=True)
    (found,) = decode(ensemble, source)
    options = {"max_new_tokens": len(found.tokens), "return_attention": True}
    (again,) = decode(dates, [source], teacher=[found.tokens], teacher_ratio=1, **options)
    np.testing.assert_array_equal(again.attention, decode(dates, source, **options)[0].attention)  # the same output
    other = [*found.tokens[:3], 9, 9, *found.tokens[5:]]
    (taught,) = decode(dates, [source], teacher=[other], teacher_ratio=1, **options)
    assert taught.attention.shape == (len(other), len(source))
    assert not np.allclose(taught.attention[5:], again.attention[5:])


def test_states_are_of_one_ensemble(models):
    state = decode(Ensemble(models), [[1]], max_new_tokens=2, return_state=True)[0].state
    for other in (Ensemble(models, [1, 1]), Ensemble(models, combine="probs"), Ensemble(models[::-1]), models[0]):
        with pytest.raises(OptionError, match="state"):
            decode(other, decoding.Request([2], state=state))
    assert decode(Ensemble(models), decoding.Request([2], state=state), max_new_tokens=1)


def test_exchanged_weights_make_another_ensemble(models):
    proto = build.recurrent("GRU", vocab=6, seed=2)
    out = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "out")
    ensemble, again = Ensemble(models), Ensemble([models[0], load(proto).with_weights({"out": out * 0.5})])
    assert ensemble.fingerprint != again.fingerprint
    assert not np.allclose(score(ensemble, [[1, 2, 3]])[0][1:], score(again, [[1, 2, 3]])[0][1:])


def test_an_ensemble_in_an_ensemble(models):
    inner = Ensemble(models, [1, 0.5])
    options = {"max_new_tokens": 6, "seed": 1, "num_return_sequences": 2}
    assert (
        decode(Ensemble([inner]), [[1, 2]], Sample(), **options).tokens
        == decode(inner, [[1, 2]], Sample(), **options).tokens
    )


# -- what the caller gives -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def translators():
    nets = [AdditiveModel(seed, metadata={"decoding.bos": 1}) for seed in (1, 2)]
    return [load(net.decoder(), encoder=net.encoder()) for net in nets]


def test_wrong_sources(translators):
    ensemble = Ensemble({"a": translators[0], "b": translators[1]})
    with pytest.raises(OptionError, match="different numbers of sources"):
        decode(ensemble, {"a": [[3], [4]], "b": [[3], [4], [5]]})
    with pytest.raises(OptionError, match="prompts"):
        decode(ensemble, {"a": [[3]]})
    with pytest.raises(OptionError, match="prompts is None"):
        decode(ensemble)
    with pytest.raises(OptionError, match="has no 'c'"):
        decode(ensemble, {"c": [[3]]})


def test_a_member_called_like_an_input(translators):
    with pytest.raises(OptionError, match="'source' is an input of source's encoder"):
        Ensemble({"source": translators[0]})


def test_wrong_contexts_and_latents():
    noisy = load(Noisy().model())
    ensemble = Ensemble({"a": noisy, "b": noisy})
    with pytest.raises(OptionError, match=r"a\.z; b\.z"):
        decode(ensemble, [[1]], latents={"y": [np.zeros(3)]})
    with pytest.raises(OptionError, match=r"latents\['a.z'\] has|latents\['a.z'\]\[0\] has shape \[2\]"):
        decode(ensemble, [[1]], latents=[np.zeros(2)])
    with pytest.raises(OptionError, match="context"):
        decode(ensemble, [[1]], context={"z": [np.zeros(3)]})


def test_a_latent_for_all_or_for_one():
    noisy, z, y = load(Noisy().model()), np.ones(3, np.float32), np.zeros(3, np.float32)
    ensemble = Ensemble({"a": noisy, "b": noisy})
    options = {"max_new_tokens": 4, "eos_token_id": None}
    both = decode(ensemble, [[1]], latents=[z], **options)
    assert both.tokens == decode(noisy, [[1]], latents=[z], **options).tokens
    apart = decode(ensemble, [[1]], latents={"z": [z], "b.z": [y]}, **options)[0]
    np.testing.assert_array_equal(apart.latent["a.z"], z)
    np.testing.assert_array_equal(apart.latent["b.z"], y)
