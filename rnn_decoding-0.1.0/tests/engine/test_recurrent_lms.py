"""Exports of modern recurrent language models, decoded and compared with the framework's own outputs.

tests/models/make_recurrent_lms.py stored these: transformers' generate() without a cache, and draws from the logits of
whole-sequence passes. So a state that is not carried, or not moved with its beam, shows.
"""

import re

import numpy as np
import pytest

from decoding import Beam, Greedy, Sample, decode
from tests.helpers.exports import MANIFEST, MODELS, outcome

EOS, SEED = 2, 1
STORED = [name for name, entry in MANIFEST.items() if entry["script"] == "make_recurrent_lms.py"]
DECODED = [name for name in STORED if MANIFEST[name]["expect"] in ("step", "window")]


def stored(name):
    """The model and the framework's outputs; None for the model where the manifest accepts that it is refused."""
    entry, (model, refused) = MANIFEST[name], outcome(name)
    assert model is not None or ("refuse" in entry["accept"] and re.search(entry["reason"], refused)), refused
    data = np.load(MODELS / f"{name}.npz")
    return model, {key: data[key].tolist() for key in ("prompt", "greedy", "beams", "sample")}


def ended(tokens):
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


def test_every_family_is_decoded():
    families = {name.split("_", 2)[2] for name in DECODED}
    assert {"mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "granite", "zamba", "qwen3_next", "lfm2", "xlstm",
            "recurrent_gemma", "retnet", "mingru", "hgrn", "deltanet"} <= families  # fmt: skip


@pytest.mark.parametrize("name", DECODED)
def test_greedy_beams_and_samples_are_the_frameworks(name):
    model, expected = stored(name)
    if model is None:
        return
    prompt, length = [expected["prompt"]], len(expected["greedy"][0])
    greedy = decode(model, prompt, Greedy(), max_new_tokens=length, eos_token_id=None)
    assert greedy.tokens == expected["greedy"]
    beams = len(expected["beams"])
    found = decode(
        model, prompt, Beam(num_beams=beams), max_new_tokens=length, eos_token_id=EOS, num_return_sequences=beams
    )
    assert found.tokens == [ended(tokens) for tokens in expected["beams"]]
    sample = decode(model, prompt, Sample(), max_new_tokens=length, eos_token_id=None, seed=SEED)
    assert sample.tokens == expected["sample"]


@pytest.mark.parametrize("name", DECODED)
def test_rows_of_other_prompts_and_lengths_change_nothing(name):
    model, expected = stored(name)
    if model is None:
        return
    prompt, greedy = expected["prompt"], expected["greedy"][0]
    prompts = [[9], prompt, [*prompt, *greedy[:5]], [4, 8]]
    lengths = [3, len(greedy), len(greedy) - 5, 7]
    found = decode(model, prompts, Greedy(), max_new_tokens=max(lengths), eos_token_id=None, batch_size=2).tokens
    assert found[1] == greedy
    assert found[2][: lengths[2]] == greedy[5:]
