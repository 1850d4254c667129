"""Arguments that are wrong: each is named, with what was expected."""

import numpy as np
import pytest

from decoding import kernels
from decoding.errors import DecodeError, OptionError
from tests.helpers.kernels import logits


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


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ">f4"])
def test_other_dtypes_are_converted(dtype):
    x = np.round(logits(8, 300)).astype(dtype)
    np.testing.assert_array_equal(kernels.draw(x, seed=1)[0], kernels.draw(x.astype(np.float32), seed=1)[0])
