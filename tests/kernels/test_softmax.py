"""Whole rows, plain draws and multinomial draws: figures, the specification, independent truth."""

import numpy as np
import pytest
from scipy import special, stats

from decoding import kernels
from decoding.errors import DecodeError, OptionError
from decoding.kernels import reference
from tests.helpers.kernels import logits


def test_temper_figures():
    p = [0.8, 0.15, 0.05]
    np.testing.assert_allclose(kernels.temper(p, 0.5), [0.96240602, 0.03383459, 0.0037594], atol=1e-7)
    np.testing.assert_allclose(kernels.temper(p, 1.5), [0.67336313, 0.22058883, 0.10604805], atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-30, 0.01, 0.5, 1.0, 3.0, 1e30])
def test_a_zero_probability_stays_zero_and_is_never_drawn(temperature):
    p = np.tile([0.0, 0.7, 0.0, 0.3, 0.0], 60)
    tempered = kernels.temper(p, temperature)
    assert np.all(tempered[p == 0] == 0)
    assert tempered.sum() == pytest.approx(1, abs=1e-5)
    drawn = kernels.multinomial(p[None] / p.sum(), 20000, seed=1)
    assert np.all(p[drawn] > 0)


def test_a_hundred_thousand_draws_fall_as_the_probabilities():
    drawn = kernels.multinomial([[0.8, 0.15, 0.05]], 100_000, seed=7)
    assert stats.chisquare(np.bincount(drawn[0]), [80_000, 15_000, 5_000]).pvalue > 1e-6


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


@pytest.mark.parametrize("width", [1, 3, 256, 300, 5000])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 1.3])
def test_draws_are_those_of_the_specification(width, temperature):
    x = logits(50, width, seed=width)
    tokens, logprobs = kernels.draw(x, temperature=temperature, seed=5, step=9)
    expected, expected_logprobs = reference.draw(x, temperature=temperature, seed=5, step=9)
    # 50 uniform numbers: none falls within float32 error of a boundary for these seeds
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(logprobs, expected_logprobs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("replacement", [True, False])
def test_multinomial_is_that_of_the_specification(replacement):
    p = special.softmax(logits(8, 700, scale=1.0).astype(np.float64), axis=1).astype(np.float32)
    options = {"num_samples": 40, "replacement": replacement, "seed": 3, "rows": np.arange(8) * 11, "step": 2}
    drawn = kernels.multinomial(p, **options)
    np.testing.assert_array_equal(drawn, reference.multinomial(p, **options))
    if not replacement:
        assert all(len(set(row)) == 40 for row in drawn)


def test_greedy_takes_the_lowest_of_equals():
    x = np.zeros((2, 600), np.float32)
    x[1, [300, 17, 599]] = 2.0
    tokens, logprobs = kernels.greedy(x)
    assert list(tokens) == [0, 17]
    np.testing.assert_allclose(logprobs, reference.greedy(x)[1], atol=1e-6)


@pytest.mark.parametrize("call", [kernels.softmax, kernels.greedy, lambda x: kernels.draw(x, seed=0)])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "forbidden")])
def test_a_bad_row_is_named(call, value, what):
    x = logits(5, 300)
    x[3] = value
    with pytest.raises(DecodeError, match=rf"row 3 .*{what}") as caught:
        call(x)
    assert caught.value.row == 3


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, np.nan, np.inf])
def test_a_wrong_temperature_is_named(temperature):
    with pytest.raises(OptionError, match="temperature is"):
        kernels.draw(logits(1, 5), temperature=temperature, seed=0)
    with pytest.raises(OptionError, match="temperature is"):
        kernels.temper([0.5, 0.5], temperature)


def test_temperature_zero_points_to_greedy():
    with pytest.raises(OptionError, match=r"Greedy\(\)"):
        kernels.draw(logits(1, 5), temperature=0.0, seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("typical_p", 0.0),
        ("epsilon_cutoff", 1.0),
        ("eta_cutoff", -1.0),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", None),
        ("step", -1),
        ("rows", [0, 1, 2]),
        ("rows", [-1, 0]),
        ("rows", [0.5, 1.5]),
        ("threads", 0),
    ],
)
def test_a_wrong_option_is_named(name, value):
    with pytest.raises(OptionError, match=rf"{name} (is|has) "):
        kernels.draw(logits(2, 5), **{"seed": 0, name: value})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.draw(np.zeros(3), seed=0), r"logits has shape \(3,\): expected \[B, V\]"),
        (lambda: kernels.draw(np.zeros((2, 0)), seed=0), "no columns"),
        (lambda: kernels.draw(np.array([["a"]]), seed=0), "dtype"),
        (lambda: kernels.softmax(np.zeros(3), out=np.zeros(3)), "out does not fit"),
        (lambda: kernels.softmax(0.0), "single number"),
        (lambda: kernels.multinomial([[1.0]], 0, seed=0), "num_samples is 0"),
        (lambda: kernels.draw(np.zeros((2, 3)), temperature=[1.0], seed=0), r"temperature has shape \(1,\)"),
    ],
)
def test_a_wrong_array_is_named(call, message):
    with pytest.raises(OptionError, match=message):
        call()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0, -0.1]], "negative"),
        ([[np.nan, 1.0]], "NaN"),
        ([[0.0, 0.0]], "nothing to choose"),
        ([[np.inf, 1.0]], "inf"),
    ],
)
def test_wrong_weights_are_named(weights, message):
    for call in (lambda: kernels.multinomial(weights, seed=0), lambda: kernels.temper(weights, 1.0)):
        with pytest.raises(DecodeError, match=message):
            call()


def test_too_few_weights_without_replacement():
    with pytest.raises(DecodeError, match="fewer positive weights than num_samples"):
        kernels.multinomial([[0.5, 0.5, 0.0]], 3, replacement=False, seed=0)


def test_empty_batches_are_fine():
    tokens, logprobs = kernels.draw(np.zeros((0, 5), np.float32), seed=0)
    assert tokens.shape == logprobs.shape == (0,)
    assert kernels.softmax(np.zeros((0, 5))).shape == (0, 5)


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


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ">f4"])
def test_other_dtypes_are_converted(dtype):
    x = np.round(logits(8, 300)).astype(dtype)
    np.testing.assert_array_equal(kernels.draw(x, seed=1)[0], kernels.draw(x.astype(np.float32), seed=1)[0])


def test_float64_beyond_float32_forbids_or_is_refused_without_a_warning():
    assert list(kernels.draw([[-1e300, 0.0]], seed=0)[0]) == [1]
    with pytest.raises(DecodeError, match="inf"):
        kernels.draw([[1e300, 0.0]], seed=0)
