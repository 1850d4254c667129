"""decoding/filters.py: the table agrees with `Sample` and with the kernels."""

import math

import numpy as np
import pytest

from decoding import OptionError, Sample, kernels
from decoding.filters import ALL_OFF, FILTERS

LOGITS = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))


def values(name):
    """Numbers in the range of a filter and outside it."""
    if FILTERS[name].whole:
        return [0, 1, 5], [-1]
    return [v for v in (0.0, 0.5, 1.0) if FILTERS[name].allows(v)], [
        v for v in (-0.1, 0.0, 1.0, 1.1, math.nan, math.inf) if not FILTERS[name].allows(v)
    ]


def test_a_sample_filters_nothing_unless_told():
    assert Sample().filters == ALL_OFF
    off = kernels.draw(LOGITS.repeat(200, 0), seed=1, **ALL_OFF)
    np.testing.assert_array_equal(off[0], kernels.draw(LOGITS.repeat(200, 0), seed=1)[0])
    assert set(off[0]) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", FILTERS)
def test_sample_and_the_kernels_take_the_same_ranges(name):
    allowed, refused = values(name)
    assert FILTERS[name].off in allowed
    for value in allowed:
        assert Sample(**{name: value}).filters == {**ALL_OFF, name: value}
        kernels.draw(LOGITS, seed=1, **{name: value})
    for value in refused:
        with pytest.raises(OptionError, match=rf"Sample\({name}="):
            Sample(**{name: value})
        with pytest.raises(OptionError, match=name):
            kernels.draw(LOGITS, seed=1, **{name: value})


def test_messages_name_the_range():
    with pytest.raises(OptionError, match=r"Sample\(top_p=0\): expected in \(0, 1\]"):
        Sample(top_p=0)
    with pytest.raises(OptionError, match=r"Sample\(eta_cutoff=1\): expected in \[0, 1\)"):
        Sample(eta_cutoff=1)
    with pytest.raises(OptionError, match=r"Sample\(top_k=-1\): expected a whole number of at least 0"):
        Sample(top_k=-1)
