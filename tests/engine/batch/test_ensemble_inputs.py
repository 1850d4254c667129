"""Ensembles whose members read sources, contexts and latents of their own."""

import numpy as np
import pytest

from decoding import (
    Beam,
    Ensemble,
    Greedy,
    Request,
    Sample,
    decode,
    load,
    score,
)
from tests.helpers import build
from tests.helpers.ensembles import SOURCES, STRATEGIES, Truth, check, outputs, translators_and_lm
from tests.helpers.exports import with_contexts
from tests.helpers.latents import Noisy


@pytest.fixture(scope="module")
def translators():
    return translators_and_lm()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_translator_with_a_language_model(translators, strategy):
    """Shallow fusion: the translator reads the source, the language model the output alone."""
    mt, _, lm = translators
    ensemble = Ensemble({"mt": mt, "lm": lm}, [1, 0.3])
    found = decode(ensemble, SOURCES, strategy, max_new_tokens=4, num_return_sequences=outputs(strategy), seed=1, eos_token_id=None)  # fmt: skip
    for h in found:
        truth = Truth([(mt, {"prompts": SOURCES[h.prompt_index]}), (lm, {})], [1, 0.3])
        check([h], truth, {h.prompt_index: [1]}, ranks=isinstance(strategy, Beam))


def test_sources_for_all_or_for_each_member(translators):
    a, b, _ = translators
    ensemble = Ensemble({"a": a, "b": b})
    others = [[5], [6, 7, 8], [9, 9]]
    for given_sources, own in ((SOURCES, (SOURCES, SOURCES)), ({"a": SOURCES, "b": others}, (SOURCES, others))):
        found = decode(ensemble, given_sources, Beam(2), max_new_tokens=3, eos_token_id=None)
        for h in found:
            sources = [column[h.prompt_index] for column in own]
            truth = Truth([(a, {"prompts": sources[0]}), (b, {"prompts": sources[1]})])
            check([h], truth, {h.prompt_index: [1]}, ranks=True)
    single = decode(ensemble, Request({"a": SOURCES[0], "b": others[0]}, Beam(2), max_new_tokens=3, eos_token_id=None))
    assert single[0].tokens == found[0].tokens
    scores = score(ensemble, [[3, 4]] * 3, prompts={"a": SOURCES, "b": others})
    for row, own in enumerate(scores):
        truth = Truth([(a, {"prompts": SOURCES[row]}), (b, {"prompts": others[row]})])
        np.testing.assert_allclose(own, truth.of_output([1], [3, 4])[0], atol=2e-4)


@pytest.mark.parametrize("name", ["legacy_frames", "dynamo_window_vector", "dynamo_coverage", "legacy_history"])
def test_members_with_contexts_and_states_of_unequal_sizes(name):
    """Contexts of both members under one name, and one's own."""
    model, tokens, contexts, _ = with_contexts(name)
    other = load(build.recurrent("GRU", vocab=model.vocab_size, seed=2))
    ensemble = Ensemble({"x": model, "y": other, "z": model}, [1, -0.2, 0.5])
    prompts = [ids[: 1 + row].tolist() for row, ids in enumerate(tokens)]
    own = {f"z.{key}": values[::-1] if name != "legacy_frames" else values for key, values in contexts.items()}
    for strategy in (Greedy(), Beam(2)):
        found = decode(ensemble, prompts, strategy, context={**contexts, **own} or None, max_new_tokens=2, eos_token_id=None)  # fmt: skip
        for h in found:
            row = h.prompt_index
            first = {"context": {key: values[row] for key, values in contexts.items()}} if contexts else {}
            last = {"context": {key: own[f"z.{key}"][row] for key in contexts}} if contexts else {}
            truth = Truth([(model, first), (other, {}), (model, last)], [1, -0.2, 0.5])
            check([h], truth, {row: prompts[row]}, ranks=isinstance(strategy, Beam))


@pytest.mark.parametrize("every", ["sequence", "step"])
def test_each_member_draws_its_latents_as_if_it_were_alone(every):
    roles = None if every == "sequence" else {"latent": {"z": {"distribution": "normal", "every": "step"}}}
    noisy, other = Noisy(), load(build.recurrent("GRU", vocab=9, seed=2))
    model = load(noisy.model(), roles=roles)
    options = {"max_new_tokens": 5, "eos_token_id": None, "num_return_sequences": 2, "seed": 3}
    ensemble = Ensemble({"noisy": model, "other": other}, [1, 0])
    alone, together_ = (decode(m, [[1], [2, 3]], Sample(), **options) for m in (model, ensemble))
    assert alone.tokens == together_.tokens
    for a, b in zip(alone, together_, strict=True):
        np.testing.assert_array_equal(a.latent, b.latent)
    given_again = decode(
        ensemble, [[1]], Sample(), latents=[together_[0].latent], max_new_tokens=5, eos_token_id=None, seed=3
    )
    assert given_again[0].tokens == alone[0].tokens


def test_step_inputs_are_called_once_a_step_for_all_members():
    model, tokens, contexts, _ = with_contexts("legacy_frame_step")
    (name,) = contexts
    ensemble = Ensemble([model, model], [0.5, 0.5])
    calls = []

    def step_inputs(history):
        calls.append(len(history))
        return {name: np.stack([contexts[name][0][len(ids) - 1] for ids in history])}

    ids = tokens[0][:3].tolist()
    found = decode(ensemble, [ids], step_inputs=step_inputs, max_new_tokens=2, eos_token_id=None)
    expected = decode(model, [ids], context={name: [contexts[name][0]]}, max_new_tokens=2, eos_token_id=None)
    assert found.tokens == expected.tokens
    assert len(calls) == 4  # two steps that only read, two that choose
