"""Softmax, log-softmax and temper: against SciPy and the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from decoding import kernels
from decoding.errors import DecodeError, OptionError
from decoding.kernels import reference
from tests.helpers.kernels import logits


def test_temper_figures():
    p = [0.8, 0.15, 0.05]
    np.testing.assert_allclose(kernels.temper(p, 0.5), [0.96240602, 0.03383459, 0.0037594], atol=1e-7)
    np.testing.assert_allclose(kernels.temper(p, 1.5), [0.67336313, 0.22058883, 0.10604805], atol=1e-7)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 255, 256, 257, 5000, 128256])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_softmax_is_scipys(width, temperature):
    x = logits(3, width, seed=width)
    z = x.astype(np.float64) / temperature
    z -= z.max(axis=1, keepdims=True)
    tolerance = 4e-7 + 1.5e-7 * np.abs(z)  # float32 rounds the exponent itself
    expected = special.softmax(z, axis=1)
    assert np.all(np.abs(kernels.softmax(x, temperature) - expected) <= tolerance * expected + 1e-37)
    expected = special.log_softmax(z, axis=1)
    assert np.all(np.abs(kernels.log_softmax(x, temperature) - expected) <= 1e-6 + 2e-7 * np.abs(expected))


def test_rows_in_place_and_of_any_rank():
    x = logits(6, 40)
    expected = kernels.softmax(x)
    np.testing.assert_array_equal(kernels.softmax(x.reshape(2, 3, 40)), expected.reshape(2, 3, 40))
    np.testing.assert_array_equal(kernels.softmax(x[0]), expected[0])
    y = x.copy()
    assert kernels.softmax(y, out=y) is y
    np.testing.assert_array_equal(y, expected)
    with pytest.raises(OptionError, match="overlaps"):
        kernels.softmax(x[::2], out=x[:3])


@pytest.mark.parametrize("view", [lambda x: x[:, ::2], lambda x: x[::-1], lambda x: x[::2], lambda x: x.T.copy().T])
def test_any_strides(view):
    x = view(logits(8, 300))
    tokens, logprobs = kernels.draw(x, seed=1)
    expected, expected_logprobs = kernels.draw(x.copy(), seed=1)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(logprobs, expected_logprobs)


def test_float64_beyond_float32_forbids_or_is_refused_without_a_warning():
    assert list(kernels.draw([[-1e300, 0.0]], seed=0)[0]) == [1]
    with pytest.raises(DecodeError, match="inf"):
        kernels.draw([[1e300, 0.0]], seed=0)


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 2.0**100, width=32)).filter(lambda p: p.max() > 0),
    st.floats(0.05, 100),
)
def test_temper_is_that_of_the_specification_for_denormal_weights_too(weights, temperature):
    # The quotient of a weight and the greatest one may be no float32 at all; its power is (issue 13).
    expected = reference.temper(weights, temperature)
    kept = expected >= expected.max() * 2.0**-125  # smaller ones are 0, as in softmax
    found = kernels.temper(weights, temperature)
    smallest = 2e-45  # a step of float32's denormals
    assert np.all(np.abs(found - expected)[kept] <= 2e-5 * expected[kept] + smallest)
    assert np.all(found[~kept] <= 1e-37)
