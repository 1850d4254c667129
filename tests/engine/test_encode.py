"""Decoding with encoders: sources of unequal lengths, compared with plain loops over one source at a time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Beam, Greedy, ModelError, Sample, decode, decode_iter, load, score, stream
from tests.helpers.exports import system, system_names
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
        with pytest.raises(ModelError, match=r"it computes its initial states from (image|annotations)"):
            model.save(tmp_path / "copy.onnx")
        return
    model.save(tmp_path / "copy.onnx")
    again = load(tmp_path / "copy.onnx")
    assert again._network.contract.pads == model._network.contract.pads
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
    assert model._network.contract.pads is masked
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
    stage = model._network.encoders.stages[0]
    run = stage.session.run
    stage.session.run = lambda feeds, outputs, **k: encoded.append(len(feeds["source"])) or run(feeds, outputs, **k)
    sources = (SOURCES[next(read) % len(SOURCES)] for _ in itertools.count())
    first = list(itertools.islice(decode_iter(model, sources, prefix=[1], max_new_tokens=4, batch_size=4), 20))
    assert len({h.prompt_index for h in first}) == 20
    assert next(read) < 60
    assert sum(encoded) < 60
    for h in first:
        assert h.tokens == decode(model, [SOURCES[h.prompt_index % 7]], prefix=[1], max_new_tokens=4)[0].tokens


def test_a_source_is_encoded_once_however_many_outputs_it_has():
    model = loaded(ADDITIVE)
    rows = []
    stage = model._network.encoders.stages[0]
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


def test_states_can_be_given_and_contexts_ragged():
    """Without its encoder the decoder takes memory, a list of unequal arrays, and hidden from the caller."""
    model = load(ADDITIVE.decoder())
    encoded = [ADDITIVE.encode(s) for s in SOURCES]
    context = {"memory": [m for m, _ in encoded], "hidden": np.stack([h for _, h in encoded])}
    found = decode(model, [[1]] * len(SOURCES), context=context, max_new_tokens=6)
    assert found.tokens == decode(loaded(ADDITIVE), SOURCES, max_new_tokens=6).tokens
