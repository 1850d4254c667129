"""The filters of sampling: their names in the order in which they apply, their ranges, and the values that switch them off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Filter:
    """One filter of `Sample`.

    Attributes:
        off: the value with which it keeps every token: the default.
        expected: the range, as messages say it.
        allows: returns whether a number is in the range.
        whole: whether the value is a whole number.
    """

    off: Any
    expected: str
    allows: Callable[[float], bool]
    whole: bool = False


FILTERS = {
    "top_k": Filter(0, "a whole number of at least 0", lambda k: k >= 0, whole=True),
    "top_p": Filter(1.0, "in (0, 1]", lambda p: 0 < p <= 1),
    "min_p": Filter(0.0, "in [0, 1]", lambda p: 0 <= p <= 1),
    "typical_p": Filter(1.0, "in (0, 1]", lambda p: 0 < p <= 1),
    "epsilon_cutoff": Filter(0.0, "in [0, 1)", lambda p: 0 <= p < 1),
    "eta_cutoff": Filter(0.0, "in [0, 1)", lambda p: 0 <= p < 1),
}

# What `Sample().filters` is: no filter at all.
ALL_OFF = {name: one.off for name, one in FILTERS.items()}
