"""The native logits processors: the specification, Hugging Face's results, wrong arguments."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import kernels
from decoding.errors import OptionError
from decoding.kernels import reference
from tests.helpers import make_filters
from tests.helpers.kernels import logits

WIDTH = 40
STORED = np.load(Path(__file__).parents[1] / "data" / "filters.npz")

histories = st.lists(st.lists(st.integers(0, WIDTH - 1), max_size=30), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(history=histories, penalty=st.floats(0.25, 4), n=st.integers(1, 5))
def test_processors_are_those_of_the_specification(history, penalty, n):
    calls = [
        ("repetition_penalty", (history, penalty)),
        ("presence_penalty", (history, penalty)),
        ("frequency_penalty", (history, -penalty)),
        ("no_repeat_ngram", (history, n)),
        ("suppress_tokens", (history[0],)),
        ("allow_tokens", (history[1],)),
        ("logit_bias", (history[2], np.linspace(-1, 1, len(history[2])))),
    ]
    for name, arguments in calls:
        x = logits(3, WIDTH)
        x[0, 3] = -np.inf
        expected = x.astype(np.float64)
        getattr(kernels, name)(x, *arguments)
        getattr(reference, name)(expected, *arguments)
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 131), seed=st.integers(0, 99), spare=st.integers(0, 2))
def test_bits_allow_tokens(width, seed, spare):
    rng = np.random.default_rng(seed)
    bits = rng.integers(2**32, size=(3, 2 * (-(-width // 32) + spare)), dtype=np.uint32)
    bits[0], bits[1, ::2] = 2**32 - 1, 0
    bits = bits[:, : bits.shape[1] // 2]  # rows lie apart
    x = rng.standard_normal((3, width)).astype(np.float32)
    expected, before = x.astype(np.float64), x.copy()
    kernels.allow_bits(x, bits)
    reference.allow_bits(expected, bits)
    np.testing.assert_array_equal(x, expected)
    is_allowed = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=1, bitorder="little")[:, :width]
    np.testing.assert_array_equal(x, np.where(is_allowed, before, -np.inf))


@pytest.mark.parametrize(
    "bits", [np.zeros((2, 1), np.uint32), np.zeros((1, 2), np.uint32), np.zeros((2, 2), np.int32), [[1]]]
)
def test_bits_of_another_shape_are_refused(bits):
    x = logits(2, WIDTH)
    with pytest.raises(OptionError, match=r"bits is .+: expected uint32 \[2, at least 2\]"):
        kernels.allow_bits(x, bits)


def test_processors_do_what_hugging_face_does():
    for name, stored, argument in (("repetition_penalty", "repetition", 1.3), ("no_repeat_ngram", "ngram", 2)):
        x = make_filters.logits()
        getattr(kernels, name)(x, STORED["history"], argument)
        np.testing.assert_allclose(x, STORED[stored], rtol=1e-6)


def test_rows_may_lie_apart():
    whole = logits(6, WIDTH)
    before = whole.copy()
    kernels.suppress_tokens(whole[::2, :20], [1])
    assert np.all(np.isneginf(whole[::2, 1]))
    whole[::2, 1] = before[::2, 1]
    np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kernels.repetition_penalty(x, [[1], [WIDTH]], 1.2), "history of row 1 has an id outside"),
        (lambda x: kernels.no_repeat_ngram(x, [[-1], [0]], 2), "history of row 0 has an id outside"),
        (lambda x: kernels.suppress_tokens(x, [0, WIDTH]), "ids at 1 has an id outside"),
        (lambda x: kernels.repetition_penalty(x, [[1]], 1.2), "history has 1 sequences: expected one for each of 2"),
        (lambda x: kernels.repetition_penalty(x, [[1], [2]], 0.0), "penalty is 0.0"),
        (lambda x: kernels.presence_penalty(x, [[1], [2]], np.nan), "penalty is nan"),
        (lambda x: kernels.no_repeat_ngram(x, [[1], [2]], 0), "n is 0"),
        (lambda x: kernels.logit_bias(x, [1, 2], [0.5]), "bias has shape"),
        (lambda x: kernels.logit_bias(x, [1], [np.inf]), "bias has shape"),
        (lambda x: kernels.suppress_tokens(x.astype(np.float64), [1]), "edited in place"),
        (lambda x: kernels.suppress_tokens(x[:, ::2], [1]), "side by side"),
        (lambda x: kernels.suppress_tokens(x, [0.5]), "expected integers"),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(call, message):
    x = logits(2, WIDTH)
    before = x.copy()
    with pytest.raises(OptionError, match=message):
        call(x)
    np.testing.assert_array_equal(x, before)
