"""Sources of encoders in every form, and those that are refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from decoding import OptionError, decode, decode_iter, load, score
from tests.helpers.build import recurrent
from tests.helpers.seq2seq import AdditiveModel

SYSTEMS = Path(__file__).parents[1] / "models" / "seq2seq"
ADDITIVE = AdditiveModel(3, metadata={"decoding.bos": 1, "decoding.eos": 0})
SOURCES = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11], [2]]


def loaded(system):
    return load(system.decoder(), encoder=system.encoder())


def in_order(hypotheses):
    """Return their tokens, in the order of the prompts."""
    return [h.tokens for h in sorted(hypotheses, key=lambda h: h.prompt_index)]


@pytest.mark.parametrize(
    "form",
    [
        lambda s: [np.array(x) for x in s],
        lambda s: {"source": s},
        np.array,
        lambda s: ["".join("abcdefghijkl"[i] for i in x) for x in s],
    ],
)
def test_sources_in_every_form(form):
    system = AdditiveModel(3)
    encoder = system.encoder()
    entry = encoder.metadata_props.add()
    entry.key, entry.value = "decoding.vocab", '["a","b","c","d","e","f","g","h","i","j","k","l"]'
    model = load(system.decoder(), encoder=encoder)
    equal = [[1, 2, 3], [4, 5, 11]]
    options = {"prefix": [1], "max_new_tokens": 5}
    expected = decode(model, equal, **options).tokens
    sources = form(equal)
    assert decode(model, sources, **options).tokens == expected
    alone = {"source": equal[0]} if isinstance(sources, dict) else sources[0]
    assert decode(model, alone, **options).tokens == expected[:1]


def test_a_text_becomes_one_hot_vectors_where_the_encoder_takes_them():
    """As Keras's character example has it: vectors in, and the vocabulary in the encoder's file."""
    encoder = onnx.load(SYSTEMS / "one_hot.encoder.onnx")
    entry = encoder.metadata_props.add()
    entry.key, entry.value = "decoding.vocab", json.dumps(list("abcdefghijklm"))
    model = load(SYSTEMS / "one_hot.onnx", encoder=encoder)
    options = {"prefix": [2], "max_new_tokens": 6}
    found = decode(model, ["cab", "fa", "mlkja"], **options)
    vectors = [np.eye(13)[["abcdefghijklm".index(c) for c in text]] for text in ("cab", "fa", "mlkja")]
    assert found.tokens == decode(model, vectors, **options).tokens
    assert decode(model, "cab", **options).tokens == found.tokens[:1]


def test_a_text_gets_the_encoders_own_bos_and_eos():
    system = AdditiveModel(3)
    encoder = system.encoder()
    for key, value in {"decoding.vocab": '["<", ">", "a", "b"]', "decoding.bos": "0", "decoding.eos": "1"}.items():
        entry = encoder.metadata_props.add()
        entry.key, entry.value = key, value
    model = load(system.decoder(), encoder=encoder)
    options = {"prefix": [1], "max_new_tokens": 5, "return_attention": True}
    found, expected = decode(model, ["ab", "b"], **options), decode(model, [[0, 2, 3, 1], [0, 3, 1]], **options)
    assert found.tokens == expected.tokens
    assert [h.attention.shape for h in found] == [(5, 4), (5, 3)]


def test_encoders_side_by_side_take_a_dict():
    """One encoder gives the memory, another, of other sources, the first state: neither feeds the other."""
    first, second = (onnx.ModelProto.FromString(ADDITIVE.encoder().SerializeToString()) for _ in range(2))
    first.graph.output.pop()
    del second.graph.output[0]
    for node in second.graph.node:  # its inputs have names of their own
        node.input[:] = [{"source": "style", "lengths": "style_lengths"}.get(name, name) for name in node.input]
    second.graph.input[0].name, second.graph.input[1].name = "style", "style_lengths"
    second.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "style_time"
    model = load(ADDITIVE.decoder(), encoder=[first, second])
    styles = [[3], [1, 2], [5, 5, 5]]
    sources = {"source": SOURCES[:3], "style": styles}
    out = decode(model, sources, prefix=[1], max_new_tokens=5)
    memory = [ADDITIVE.encode(s)[0] for s in SOURCES[:3]]
    hidden = np.stack([ADDITIVE.encode(s)[1] for s in styles])
    alone = load(ADDITIVE.decoder())
    assert out.tokens == decode(alone, [[1]] * 3, context={"memory": memory, "hidden": hidden}, max_new_tokens=5).tokens
    each = ({"source": s, "style": t} for s, t in zip(SOURCES, styles, strict=False))
    assert in_order(decode_iter(model, each, prefix=[1], max_new_tokens=5)) == out.tokens
    with pytest.raises(
        OptionError, match=r"prompts: list: expected a dict .* for the encoder of .*; it takes source .*; style "
    ):
        decode(model, SOURCES)
    with pytest.raises(
        OptionError, match=r"prompts: the inputs have different numbers of sources: \{'source': 2, 'style': 3\}"
    ):
        decode(model, {"source": SOURCES[:2], "style": styles})


def test_a_conversation_is_a_list_of_turns():
    model = load(SYSTEMS / "chat.onnx")
    options = {"prefix": [2], "max_new_tokens": 5}
    talks = [[[1, 2, 3], [4, 5]], [[6]], [[7, 8], [1], [2, 2, 2]]]
    expected = decode(model, talks, **options).tokens
    assert decode(model, talks[0], **options).tokens == expected[:1]  # turns of one talk
    assert decode(model, [6], **options).tokens == expected[1:2]  # one turn alone
    assert in_order(decode_iter(model, talks, **options)) == expected
    with pytest.raises(OptionError, match=r"prompts\[1\]: \[\]: expected a list of turns, at least one"):
        decode(model, [talks[0], []], **options)
    with pytest.raises(
        OptionError, match=r"prompts: list, nested 4 deep: expected a string, ids, or a list of these, one a turn"
    ):
        decode(model, [talks], **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), r"prompts is None: .* has an encoder, which needs a source to read: source int64\[batch, any\]"),
        (([],), r"prompts is empty"),
        (([[1, 2], []],), r"prompts\[1\] is empty: there is nothing to encode"),
        (([[1, 12]],), r"prompts\[0\]: id 12 is out of range; the encoder's ids go from 0 to 11"),
        (([[1, -1]],), r"prompts\[0\]: id -1 is out of range"),
        (([[1.5]],), r"prompts\[0\]: float64 of shape \[1\]; expected whole-number ids"),
        (("text",), r"prompts: .* has no vocabulary, so a text cannot be read"),
        ((3,), r"prompts: int, nested 0 deep: expected a string, ids, or a list of sources"),
        (([[[1, 2]]],), r"prompts: list, nested 3 deep"),
        (
            ({"src": [[1]]},),
            r"prompts: the encoder of .* has no 'src'; it takes source int64\[batch, any\]",
        ),
        (({},), r"prompts: the encoder needs 'source' too"),
        (({"source": [[1]], "lengths": [1]},), r"prompts: 'lengths' is computed from the sources; leave it out"),
    ],
)
def test_wrong_sources(arguments, message):
    with pytest.raises(OptionError, match=message):
        decode(loaded(ADDITIVE), *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prefix": [[1], [2], [3]]},
            r"prefix: found 3; expected one for all prompts, or one for each of the 2",
        ),
        ({"prefix": [99]}, r"prefix: id 99 at position 0 is out of range"),
        (
            {"context": {"memory": np.zeros((2, 3, 10))}},
            r"context: 'memory' comes from the encoder; the contexts that it does not give are none",
        ),
        ({"context": {"hidden": np.zeros((2, 4))}}, r"context\['hidden'\] has shape \[2, 4\]: expected \[2, 5\]"),
        ({"latents": np.zeros((2, 3))}, r"latents: .* has none; pass roles=\{'latent'"),
    ],
)
def test_wrong_options_beside_sources(options, message):
    with pytest.raises(OptionError, match=message):
        decode(loaded(ADDITIVE), [[1, 2], [3]], **options)


def test_a_model_without_encoder_has_no_prefix_and_no_sources():
    model = load(recurrent())
    with pytest.raises(OptionError, match=r"prefix: .* has no encoder: it continues the prompts themselves"):
        decode(model, [[1]], prefix=[1])
    with pytest.raises(OptionError, match=r"prompts: .* has no encoder to read them"):
        score(model, [[1]], prompts=[[1]])


def test_scores_want_as_many_sources_as_sequences():
    with pytest.raises(
        OptionError, match=r"prompts: found 2; expected one for all sequences, or one for each of the 3"
    ):
        score(loaded(ADDITIVE), [[1, 2]] * 3, prompts=[[1], [2]])
