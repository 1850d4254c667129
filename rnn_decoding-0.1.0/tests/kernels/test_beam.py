"""Beam pruning, and the moving of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from decoding import kernels
from decoding.errors import DecodeError, OptionError
from decoding.kernels import reference
from tests.helpers.kernels import logits


@pytest.mark.parametrize("width", [3, 17, 256, 257, 10000])
@pytest.mark.parametrize(("beams", "num_beams", "groups"), [(1, 4, 1), (5, 5, 1), (4, 4, 2), (6, 6, 3), (2, 8, 2)])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_beam_prune_is_that_of_the_specification(width, beams, num_beams, groups, penalty):
    x = logits(3 * beams, width).reshape(3, beams, width)
    scores = logits(3, beams, seed=1, scale=1.0)
    if beams > 2:
        scores[1, 1] = -np.inf
        x[1, 1] = np.nan  # a dead beam is not looked at
    for normalize in (True, False):
        options = {"groups": groups, "diversity_penalty": penalty, "eos_token_id": [2], "normalize": normalize}
        found = kernels.beam_prune(x, scores, num_beams, **options)
        expected = reference.beam_prune(x, scores, num_beams, **options)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[2], expected[2])


@settings(max_examples=100, deadline=None)
@given(
    x=hnp.arrays(np.float32, (2, 4, 40), elements=st.sampled_from([-np.inf, -3.0, -0.5, 0.0, 1.0, 1.5, 4.0])),
    groups=st.sampled_from([1, 2, 4]),
    penalty=st.sampled_from([0.0, 0.5]),
)
def test_beam_prune_breaks_ties_by_beam_and_token(x, groups, penalty):
    x[..., 7] = 2.0
    scores = np.float32([[-1, -1, -2, -2], [0, -np.inf, 0, -1]])
    options = {"groups": groups, "diversity_penalty": penalty, "normalize": False}
    found, expected = kernels.beam_prune(x, scores, 4, **options), reference.beam_prune(x, scores, 4, **options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_beam_prune_names_what_is_wrong():
    x, scores = np.zeros((2, 4, 9), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(OptionError, match="groups is 3"):
        kernels.beam_prune(x, scores, 4, groups=3)
    with pytest.raises(OptionError, match="scores has shape"):
        kernels.beam_prune(x, scores[:1], 4)
    with pytest.raises(OptionError, match="diversity_penalty is -1"):
        kernels.beam_prune(x, scores, 4, diversity_penalty=-1)
    with pytest.raises(OptionError, match="num_beams is 0"):
        kernels.beam_prune(x, scores, 0)
    x[1, 2, 3] = np.nan
    with pytest.raises(DecodeError, match="row 6 has a NaN"):
        kernels.beam_prune(x, scores, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, np.complex128, "S3"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_gather_rows_is_take(dtype, axis):
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    index = [3, 3, 0, 1, 2]
    expected = array.take(index, axis)
    np.testing.assert_array_equal(kernels.gather_rows(array, index, axis), expected)
    np.testing.assert_array_equal(kernels.gather_rows(array[::-1], index, axis), array[::-1].take(index, axis))
    out = np.empty_like(expected)
    assert kernels.gather_rows(array, index, axis, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_gather_rows_names_what_is_wrong():
    array = np.zeros((3, 4))
    with pytest.raises(OptionError, match="index has 3 at 1"):
        kernels.gather_rows(array, [0, 3])
    with pytest.raises(OptionError, match="axis is 2"):
        kernels.gather_rows(array, [0], axis=2)
    with pytest.raises(OptionError, match="out overlaps"):
        kernels.gather_rows(array, [0, 1, 2], out=array)
    with pytest.raises(OptionError, match="out does not fit"):
        kernels.gather_rows(array, [0], out=np.zeros((2, 4)))
    with pytest.raises(OptionError, match="Python objects"):
        kernels.gather_rows(np.array([None]), [0])
