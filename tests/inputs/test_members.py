"""Names of inputs: plain ones for all members of an ensemble, the members' own for one."""

import numpy as np
import pytest

from decoding import Ensemble, OptionError, decode, load
from decoding.inputs.members import for_members
from decoding.inputs.sources import encode_sources
from tests.helpers import build
from tests.helpers.exports import with_contexts
from tests.helpers.latents import Noisy
from tests.helpers.seq2seq import AdditiveModel

NAMES = ["a.z", "b.z", "b.y", "c.in.z"]


@pytest.fixture(scope="module")
def ensemble():
    noisy = load(Noisy().model())
    return Ensemble({"a": noisy, "b": noisy, "c": Ensemble({"in": noisy})})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"z": 1}, {"a.z": 1, "b.z": 1, "c.in.z": 1}),
        ({"b.z": 2, "z": 1}, {"a.z": 1, "b.z": 2, "c.in.z": 1}),
        ({"z": 1, "c.in.z": 3}, {"a.z": 1, "b.z": 1, "c.in.z": 3}),
        ({"y": 1}, {"b.y": 1}),
        ({"x": 1}, {"x": 1}),
        ({}, {}),
        (None, None),
        (5, 5),
    ],
)
def test_values_by_name(ensemble, given, expected):
    assert for_members(ensemble, given, NAMES) == expected


def test_a_value_alone_is_for_all_where_there_is_one_name(ensemble):
    assert for_members(ensemble, 5, ["a.z", "c.in.z"]) == {"a.z": 5, "c.in.z": 5}


def test_other_models_get_what_was_given(ensemble):
    assert for_members(ensemble.members["a"], {"b.z": 1}, NAMES) == {"b.z": 1}


def test_nested_members_get_their_inputs(ensemble):
    z = np.array([1.0, 0.5, -1.0], np.float32)
    found = decode(ensemble, [[1, 2]], latents=[z], max_new_tokens=5, eos_token_id=None)
    alone = decode(ensemble.members["a"], [[1, 2]], latents=[z], max_new_tokens=5, eos_token_id=None)
    assert found.tokens == alone.tokens
    assert set(found[0].latent) == {"a.z", "b.z", "c.in.z"}


def test_a_name_that_no_member_has(ensemble):
    with pytest.raises(OptionError, match="has no 'x'"):
        decode(ensemble, [[1]], latents={"x": [np.zeros(3)]})
    with pytest.raises(OptionError, match=r"no 'other\.z'"):
        decode(ensemble, [[1]], latents={"other.z": [np.zeros(3)]})


def test_members_without_inputs_take_none():
    plain = load(build.recurrent("GRU", vocab=9))
    with pytest.raises(OptionError, match="context"):
        decode(Ensemble([plain, plain]), [[1]], context=[np.zeros(3)])


def test_a_member_in_window_mode_needs_the_values_of_all_its_tokens():
    """What step_inputs computes is for one token, and a window shows many."""
    windowed, tokens, contexts, _ = with_contexts("legacy_window_frames")
    (name,) = contexts
    ensemble = Ensemble({"w": windowed, "plain": load(build.recurrent("GRU", vocab=windowed.vocab_size))})
    given = {name: [contexts[name][0]]}
    assert decode(ensemble, [tokens[0][:1].tolist()], context=given, max_new_tokens=2, eos_token_id=None)
    with pytest.raises(OptionError, match=f"needs 'w.{name}'"):
        decode(ensemble, [tokens[0][:1].tolist()], step_inputs=lambda history: {})
    with pytest.raises(OptionError, match=f"needs 'w.{name}'"):
        decode(ensemble, [tokens[0][:1].tolist()])


def test_what_an_encoder_feeds_in_one_member_the_caller_gives_in_another():
    net = AdditiveModel(3, metadata={"decoding.bos": 1})
    with_encoder, bare = load(net.decoder(), encoder=net.encoder()), load(net.decoder())
    memory, hidden = (array.astype(np.float32) for array in net.encode([3, 4, 5]))
    ensemble = Ensemble({"a": with_encoder, "b": bare})
    context = {"memory": [memory], "b.hidden": [hidden]}
    found = decode(ensemble, [[3, 4, 5]], context=context, max_new_tokens=4, eos_token_id=None)
    assert found.tokens == decode(with_encoder, [[3, 4, 5]], max_new_tokens=4, eos_token_id=None).tokens
    with pytest.raises(OptionError, match=r"'a\.memory' comes from the encoder"):
        decode(ensemble, [[3, 4, 5]], context={"a.memory": [memory], **context})


def test_sources_by_the_names_of_an_ensembles_inputs():
    dates = load("dates")
    ensemble = Ensemble({"a": dates, "b": Ensemble({"in": dates})})
    first, second = (encode_sources(dates, [text])[0]["tokens"] for text in ("3 May 1999", "4 June 2001"))
    (found,) = encode_sources(ensemble, {"a.tokens": first, "b.in.tokens": second}, single=True)
    assert found.keys() == ensemble._network.encoders.sources
    assert (found["a.tokens"] == first).all()
    assert (found["b.in.tokens"] == second).all()
    with pytest.raises(OptionError, match="needs 'tokens' too"):
        encode_sources(ensemble, {"a.tokens": first}, single=True)
