"""Decoding with encoders: sources of unequal lengths, compared with plain loops over one source at a time."""

import itertools
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Beam, Greedy, ModelError, OptionError, Sample, decode, decode_iter, load, score, stream
from tests.helpers.build import recurrent
from tests.helpers.exports import SYSTEMS, system, system_names
from tests.helpers.seq2seq import AdditiveModel


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("name", system_names())
def test_every_step_gives_what_the_modules_give(name, batch_size):
    model, sources, tokens, logprobs, attention = system(name)
    out = decode(
        model, sources, Greedy(), prefix=[2], teacher=[t[1:] for t in tokens], teacher_ratio=1, max_new_tokens=7,
        logprobs=model.vocab_size, return_attention=attention is not None, batch_size=batch_size,
    )  # fmt: skip
    for h, expected in zip(out, logprobs, strict=True):
        ids, values = h.top_logprobs
        found = np.empty((7, model.vocab_size))
        np.put_along_axis(found, ids, values, axis=1)
        np.testing.assert_allclose(found, expected[:7], atol=2e-4)
    if attention is not None:
        for h, expected in zip(out, attention, strict=True):
            assert h.attention.shape == expected[:7].shape  # no weights on padding
            np.testing.assert_allclose(h.attention, expected[:7], atol=1e-5)


@pytest.mark.parametrize("name", system_names())
def test_scores_are_the_modules_own(name):
    model, sources, tokens, logprobs, _ = system(name)
    for values, ids, expected in zip(
        score(model, tokens, prompts=sources, batch_size=4), tokens, logprobs, strict=True
    ):
        np.testing.assert_allclose(values[1:], expected[np.arange(7), ids[1:]], atol=2e-4)


@pytest.mark.parametrize("name", system_names())
def test_a_saved_model_finds_its_encoders_again(name, tmp_path):
    model, sources, *_ = system(name)
    if name in ("caption_start", "show_attend"):
        with pytest.raises(ModelError, match=r"it computes its first states from (image|annotations)"):
            model.save(tmp_path / "copy.onnx")
        return
    model.save(tmp_path / "copy.onnx")
    again = load(tmp_path / "copy.onnx")
    assert again.contract.pads == model.contract.pads
    options = {"prefix": [2], "max_new_tokens": 5}
    assert decode(again, sources, **options).tokens == decode(model, sources, **options).tokens


# -- additive attention in NumPy -----------------------------------------------------------------------------


def in_order(hypotheses):
    """Their tokens, in the order of the prompts."""
    return [h.tokens for h in sorted(hypotheses, key=lambda h: h.prompt_index)]


def loaded(system, **options):
    return load(system.decoder(), encoder=system.encoder(), **options)


ADDITIVE = AdditiveModel(3, metadata={"decoding.bos": 1, "decoding.eos": 0})
RNG = np.random.default_rng(0)
SOURCES = [RNG.integers(0, 12, n).tolist() for n in (3, 8, 1, 5, 8, 2, 13)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans(), st.integers(1, 7))
def test_greedy_equals_numpy_one_source_at_a_time(seed, lengths, masked, batch_size):
    system = AdditiveModel(seed, masked=masked)
    model = loaded(system)
    assert model.contract.pads is masked
    sources = [np.random.default_rng(i).integers(0, 12, n) for i, n in enumerate(lengths)]
    out = decode(model, sources, prefix=[1], max_new_tokens=6, return_attention=True, batch_size=batch_size)
    for source, h in zip(sources, out, strict=True):
        logprobs, attention = system.steps(source, [1, *h.tokens[:-1]])
        np.testing.assert_allclose(h.attention, attention, atol=1e-4)
        np.testing.assert_allclose(h.token_logprobs, logprobs.max(axis=1), atol=1e-3)
        np.testing.assert_allclose(h.token_logprobs, logprobs[np.arange(6), h.tokens], atol=1e-3)


@pytest.mark.parametrize(
    "strategy", [Sample(temperature=1.5), Beam(num_beams=3, coverage_penalty=0.3), Sample(replacement=False)]
)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("batch_size", [3, 7, 64])
def test_searches_equal_numpy_and_each_source_alone(strategy, masked, batch_size):
    system = AdditiveModel(3, masked=masked, metadata={"decoding.bos": 1, "decoding.eos": 0})
    model = loaded(system)
    options = {"max_new_tokens": 9, "num_return_sequences": 3, "seed": 4}
    out = decode(model, SOURCES, strategy, batch_size=batch_size, **options)
    for h in out:
        fed = [1, *h.tokens]
        logprobs, _ = system.steps(SOURCES[h.prompt_index], fed)
        ends = [*h.tokens, *([0] if h.finish_reason == "eos" else [])]
        np.testing.assert_allclose(h.token_logprobs, logprobs[np.arange(len(ends)), ends], atol=1e-3)
    if isinstance(strategy, Beam):  # nothing is drawn: a source alone is as good
        for i, source in enumerate(SOURCES):
            assert decode(model, [source], strategy, **options).tokens == out[3 * i : 3 * i + 3].tokens


def test_beams_keep_the_attention_of_their_own_source():
    model = loaded(ADDITIVE)
    out = decode(
        model, SOURCES, Beam(num_beams=4), max_new_tokens=9, num_return_sequences=4, return_attention=True, batch_size=8
    )
    for h in out:
        _, attention = ADDITIVE.steps(SOURCES[h.prompt_index], [1, *h.tokens])
        np.testing.assert_allclose(h.attention, attention[: len(h.tokens)], atol=1e-4)


def test_streams_iterables_and_workers_give_the_same():
    model = loaded(ADDITIVE)
    options = {"max_new_tokens": 8, "eos_token_id": None}
    expected = decode(model, SOURCES, **options).tokens
    events = list(stream(model, SOURCES, **options))
    assert [[e.token for e in events if e.prompt_index == i] for i in range(len(SOURCES))] == expected
    assert in_order(decode_iter(model, iter(SOURCES), batch_size=3, **options)) == expected
    assert decode(model, SOURCES, batch_size=2, workers=2, **options).tokens == expected


@pytest.mark.parametrize("masked", [True, False])
def test_an_endless_iterable_is_encoded_as_it_is_decoded(masked):
    model = loaded(AdditiveModel(3, masked=masked))
    read = itertools.count()
    encoded = []
    stage = model.encoders.stages[0]
    run = stage.session.run
    stage.session.run = lambda feeds, outputs, **k: encoded.append(len(feeds["source"])) or run(feeds, outputs, **k)
    sources = (SOURCES[next(read) % len(SOURCES)] for _ in itertools.count())
    first = list(itertools.islice(decode_iter(model, sources, prefix=[1], max_new_tokens=4, batch_size=4), 20))
    assert len({h.prompt_index for h in first}) == 20
    assert next(read) < 40
    assert sum(encoded) < 40
    for h in first:
        assert h.tokens == decode(model, [SOURCES[h.prompt_index % 7]], prefix=[1], max_new_tokens=4)[0].tokens


def test_a_source_is_encoded_once_however_many_outputs_it_has():
    model = loaded(ADDITIVE)
    rows = []
    stage = model.encoders.stages[0]
    run = stage.session.run
    stage.session.run = lambda feeds, outputs, **k: rows.append(len(feeds["source"])) or run(feeds, outputs, **k)
    decode(model, SOURCES, Sample(), num_return_sequences=5, max_new_tokens=3, seed=1, batch_size=4)
    assert sum(rows) == len(SOURCES)


def test_prefixes_are_the_decoders_own():
    model = loaded(ADDITIVE)
    each = [[1, i, i] for i in range(len(SOURCES))]
    out = decode(model, SOURCES, prefix=each, max_new_tokens=4, eos_token_id=None)
    for source, prefix, h in zip(SOURCES, each, out, strict=True):
        logprobs, _ = ADDITIVE.steps(source, [*prefix, *h.tokens[:-1]])
        np.testing.assert_allclose(h.token_logprobs, logprobs[2:].max(axis=1), atol=1e-3)
    assert (
        decode(model, SOURCES, max_new_tokens=3).tokens == decode(model, SOURCES, prefix=[1], max_new_tokens=3).tokens
    )


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


def test_states_can_be_given_and_contexts_ragged():
    """Without its encoder the decoder takes memory, a list of unequal arrays, and hidden from the caller."""
    model = load(ADDITIVE.decoder())
    encoded = [ADDITIVE.encode(s) for s in SOURCES]
    context = {"memory": [m for m, _ in encoded], "hidden": np.stack([h for _, h in encoded])}
    found = decode(model, [[1]] * len(SOURCES), context=context, max_new_tokens=6)
    assert found.tokens == decode(loaded(ADDITIVE), SOURCES, max_new_tokens=6).tokens


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
        OptionError, match=r"prompts: list: the encoder of .* has the inputs source .*; style .*; pass a dict"
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


# -- errors --------------------------------------------------------------------------------------------------


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
            r"prompts: the encoder has no input 'src'; what is to be given is source int64\[batch, any\]",
        ),
        (({},), r"prompts: the encoder needs 'source' too"),
        (({"source": [[1]], "lengths": [1]},), r"prompts: 'lengths' is filled by decoding; leave it out"),
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
            r"prefix: found 3 of them; expected one for all prompts, or one for each of the 2",
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
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message):
        decode(loaded(ADDITIVE), [[1, 2], [3]], **options)


def test_a_model_without_encoder_has_no_prefix_and_no_sources():
    model = load(recurrent())
    with pytest.raises(OptionError, match=r"prefix: .* has no encoder: what it continues are the prompts themselves"):
        decode(model, [[1]], prefix=[1])
    with pytest.raises(OptionError, match=r"prompts: .* has no encoder to read them"):
        score(model, [[1]], prompts=[[1]])


def test_scores_want_as_many_sources_as_sequences():
    with pytest.raises(OptionError, match=r"prompts: found 2 sources; expected one for all, or one for each of the 3"):
        score(loaded(ADDITIVE), [[1, 2]] * 3, prompts=[[1], [2]])
