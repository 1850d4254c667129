"""The greatest values of each row, and log-probabilities of tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from decoding import kernels
from decoding.errors import OptionError
from decoding.kernels import reference
from tests.helpers.kernels import logits


@pytest.mark.parametrize("width", [1, 15, 17, 256, 257, 5000, 50257])
def test_top_k_is_a_stable_sort(width):
    for x in (logits(3, width), np.round(logits(3, width)), np.zeros((2, width), np.float32)):
        for k in {1, min(10, width), (width + 1) // 2, width}:
            values, ids = kernels.top_k(x, k)
            expected, expected_ids = reference.top_k(x, k)
            np.testing.assert_array_equal(ids, expected_ids)
            np.testing.assert_array_equal(values, expected.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 600)),
        elements=st.sampled_from(np.float32([-np.inf, -1e30, -1.5, 0.0, 1e-40, 2.0, 2.5, 1e30]).tolist()),
    ),
    k=st.integers(1, 600),
)
def test_top_k_of_any_rows(x, k):
    x[:, 0] = 0.5
    k = min(k, x.shape[1])
    values, ids = kernels.top_k(x, k)
    np.testing.assert_array_equal(ids, reference.top_k(x, k)[1])
    np.testing.assert_array_equal(values, np.take_along_axis(x, ids, 1))


def test_logprobs_of_the_best_and_of_given_tokens():
    x = logits(5, 1000)
    values, ids = kernels.top_logprobs(x, 20)
    expected, expected_ids = reference.top_logprobs(x, 20)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(kernels.token_logprobs(x, ids[:, 7]), expected[:, 7], rtol=1e-6, atol=1e-6)
    with pytest.raises(OptionError, match="tokens has 1000 at row 1"):
        kernels.token_logprobs(x, [0, 1000, 0, 0, 0])
    with pytest.raises(OptionError, match="k is 1001"):
        kernels.top_k(x, 1001)
