"""The filters of sampling: their names in the order in which they apply, their ranges, and the values that switch them off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Filter:
    """One filter of `Sample`.

    Attributes:
        off: the value with which it keeps every token: the default.
        low, high: the ends of its range; `without_low`, `without_high`: whether the range leaves them out.
        whole: whether the value is a whole number.
    """

    off: Any
    low: float = 0.0
    high: float = 1.0
    without_low: bool = False
    without_high: bool = False
    whole: bool = False

    @property
    def expected(self) -> str:
        """The range, as messages say it."""
        return f"in {'[('[self.without_low]}{self.low:g}, {self.high:g}{'])'[self.without_high]}"

    def allows(self, value: float) -> bool:
        """Return whether a number is in the range."""
        ends = (self.without_low and value == self.low) or (self.without_high and value == self.high)
        return self.low <= value <= self.high and not ends


FILTERS = {
    "top_k": Filter(0, high=math.inf, whole=True),
    "top_p": Filter(1.0, without_low=True),
    "min_p": Filter(0.0),
    "typical_p": Filter(1.0, without_low=True),
    "epsilon_cutoff": Filter(0.0, without_high=True),
    "eta_cutoff": Filter(0.0, without_high=True),
}

# What `Sample().filters` is: no filter at all.
ALL_OFF = {name: one.off for name, one in FILTERS.items()}
