"""Random numbers, the best tokens, beam search, Gumbel-top-k and the moving of state."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from decoding import kernels
from decoding.errors import DecodeError, OptionError
from decoding.kernels import reference
from tests.helpers.kernels import FILTERS, logits

WORD = 2**64


def test_philox_is_numpys_on_a_thousand_keys():
    rng = np.random.default_rng(1)
    for i in range(1000):
        key, counter = rng.integers(0, WORD, 2, np.uint64), rng.integers(0, WORD, 4, np.uint64)
        if i % 10 == 0:
            counter[: i % 4 + 1] = WORD - 1  # the carry runs through all words
        expected = np.random.Philox(key=key, counter=counter).random_raw(9)
        np.testing.assert_array_equal(kernels.philox(key, counter, 9), expected)


def test_uniform_and_normal_are_those_of_the_specification():
    rows, steps = np.array([0, 5, WORD - 1], np.uint64), [3, 0, 2**62]
    for number, purpose in enumerate(reference.PURPOSES):
        found = kernels.uniform(7, rows, steps, 11, purpose)
        np.testing.assert_array_equal(found, reference.uniform(7, rows, steps, 11, purpose))
        np.testing.assert_allclose(
            kernels.normal(7, rows, steps, 11, purpose), reference.normal(7, rows, steps, 11, purpose), rtol=1e-12
        )
        counter = np.array([0, 3, number, 0], np.uint64)
        raw = np.random.Philox(key=np.array([7, 0], np.uint64), counter=counter)
        np.testing.assert_array_equal(found[0], np.random.Generator(raw).random(11))
    assert stats.kstest(kernels.normal(1, np.arange(100), 0, 200).ravel(), "norm").pvalue > 1e-6


def test_wrong_random_arguments_are_named():
    with pytest.raises(OptionError, match="purpose is 'dice'"):
        kernels.uniform(0, [0], 0, 1, "dice")
    with pytest.raises(OptionError, match="key is"):
        kernels.philox([1], [0, 0, 0, 0], 1)


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
        elements=st.sampled_from([-np.inf, -1e30, -1.5, 0.0, 1e-40, 2.0, 2.5, 1e30]),
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


@pytest.mark.parametrize("filters", FILTERS[:4])
def test_gumbel_top_k_is_that_of_the_specification(filters):
    x = logits(12, 500, scale=1.0)
    options = {"temperature": 0.8, "seed": 4, "step": 2, "scores": np.linspace(-5, 0, 12), **filters}
    options["maxima"] = np.where(np.arange(12) % 2, np.linspace(-4, 2, 12), np.inf)
    found, expected = kernels.gumbel_top_k(x, 6, **options), reference.gumbel_top_k(x, 6, **options)
    np.testing.assert_array_equal(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gumbel_top_k_has_the_law_of_noise_on_every_logit():
    row, n = np.float32([1.0, 0.0, -1.0, 0.5]), 20000
    tokens, perturbed, _, _ = kernels.gumbel_top_k(np.broadcast_to(row, (n, 4)), 2, seed=6)
    p = reference.softmax(row)
    pairs = list(itertools.permutations(range(4), 2))
    expected = np.array([p[a] * p[b] / (1 - p[a]) for a, b in pairs]) * n
    observed = [int(np.sum((tokens[:, 0] == a) & (tokens[:, 1] == b))) for a, b in pairs]
    assert stats.chisquare(observed, expected).pvalue > 1e-6
    noisy = -np.sort(-(np.log(p) + np.random.default_rng(0).gumbel(size=(n, 4))), axis=1)
    for place in range(2):
        assert stats.ks_2samp(perturbed[:, place], noisy[:, place]).pvalue > 1e-6
    # conditioned on a maximum: the others are truncated Gumbels
    given_maximum = kernels.gumbel_top_k(np.broadcast_to(row, (n, 4)), 2, seed=8, maxima=np.full(n, 0.25))[1]
    assert np.all(given_maximum[:, 0] == 0.25)
    assert np.all(given_maximum[:, 1] <= 0.25)


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
