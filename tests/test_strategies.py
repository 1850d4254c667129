"""decoding/strategies.py."""

import math

import pytest

from decoding import Beam, Greedy, OptionError, Sample, TopN


@pytest.mark.parametrize("temperature", [1e-3, 0.8, 1, 100.0, [0.5, 2.0]])
def test_temperatures_above_zero_are_taken(temperature):
    assert Sample(temperature=temperature).temperature == temperature


def test_temperature_zero_points_to_greedy():
    with pytest.raises(OptionError, match=r"temperature=0.*use Greedy\(\)"):
        Sample(temperature=0)


@pytest.mark.parametrize(
    "temperature", [-1, -0.5, math.nan, math.inf, 1e-60, "hot", None, [], [1.0, math.nan], [[1.0]]]
)
def test_other_temperatures_are_refused_when_the_strategy_is_made(temperature):
    with pytest.raises(OptionError, match=r"temperature.*expected"):
        Sample(temperature=temperature)


def test_strategies_are_frozen():
    with pytest.raises(AttributeError):
        Sample().temperature = 2.0


def test_beams_and_distinct_samples_are_searched_together():
    strategies = [Greedy(), TopN(2), Sample(), Sample(replacement=False), Beam()]
    assert [s.searches_together for s in strategies] == [False, False, False, True, True]
