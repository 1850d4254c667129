"""How the next token is chosen. Frozen, and checked when made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from decoding.errors import OptionError


@dataclass(frozen=True)
class Greedy:
    """The most probable token at every step; of equal logits the lowest id wins."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A random draw from the softmax of the logits over a temperature.

    Args:
        temperature: divides the logits; above 0. Below 1 sharpens, above 1 flattens. One number, or an
            array with one for each prompt.

    Raises:
        OptionError: a value is out of its range.
    """

    temperature: float | npt.ArrayLike = 1.0

    def __post_init__(self) -> None:
        try:
            values = np.asarray(self.temperature, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"Sample(temperature={self.temperature!r}): expected a number above 0, or an array of them"
            ) from error
        if values.ndim > 1 or values.size == 0:
            raise OptionError(
                f"Sample(temperature=array of shape {list(values.shape)}): expected one number, or one for each prompt"
            )
        for value in values.flat:
            if value == 0:
                raise OptionError(
                    "Sample(temperature=0): a temperature is above 0; for the most probable token at every step use Greedy()"
                )
            if not (value > 0 and np.isfinite(np.float32(value)) and np.float32(value) > 0):
                raise OptionError(f"Sample(temperature={value}): expected a finite number above 0")


Strategy = Greedy | Sample
