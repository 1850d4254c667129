"""Latents that the caller gives: latents=."""

from pathlib import Path

import numpy as np
import pytest

from decoding import OptionError, decode, load

Z = 3
PROMPTS = [[1], [2, 3], [1], [4, 5, 6]]


@pytest.fixture(scope="module")
def noisy():
    path = Path(__file__).parents[1] / "models" / "torch_legacy_gru_context.onnx"
    return load(path, roles={"latent": {"context": "normal"}})


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((3, Z)), r"latents\['context'\]: found 3 values; expected 4, one for each prompt or sequence"),
        (np.full((4, 3), np.nan), r"latents\['context'\]\[0\] holds NaN or infinite values"),
        (np.zeros((4, 2)), r"latents\['context'\]\[0\] has shape \[2\]: expected \[3\]"),
        ({"y": np.zeros((4, Z))}, r"latents: .* has no 'y'; it takes context"),
        ([["a"] * Z] * 4, r"latents\['context'\]\[0\]: expected float32 numbers"),
        (3, r"latents\['context'\]: found int values; expected 4"),
    ],
)
def test_wrong_latents(noisy, latents, message):
    with pytest.raises(OptionError, match=message):
        decode(noisy, PROMPTS, latents=latents)


def test_latents_in_every_form(noisy):
    values = np.random.default_rng(0).normal(size=(len(PROMPTS), Z)).astype(np.float32)
    expected = decode(noisy, PROMPTS, latents={"context": values}, max_new_tokens=5).tokens
    assert decode(noisy, PROMPTS, latents=values, max_new_tokens=5).tokens == expected
    assert decode(noisy, PROMPTS, latents=list(values), max_new_tokens=5).tokens == expected
    assert decode(noisy, PROMPTS, latents=[{"context": v} for v in values], max_new_tokens=5).tokens == expected
