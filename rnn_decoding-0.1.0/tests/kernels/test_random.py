"""The keyed generator: against numpy.random.Philox and the reference."""

import numpy as np
import pytest
from scipy import stats

from decoding import kernels
from decoding.errors import OptionError
from decoding.kernels import reference

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
