"""Draws the effect of the temperature on one distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

from decoding import kernels
from decoding.errors import OptionError, whole_number
from decoding.plot.glyphs import drawable
from decoding.plot.page import label, upright
from decoding.plot.style import styled

_COLD_TO_HOT = colormaps["plasma"]


def temperature(
    logits: npt.ArrayLike,
    temperatures: Sequence[float] = (0.5, 1.0, 1.5),
    tokens: Sequence[Any] | None = None,
    top: int = 20,
) -> Figure:
    """Draw one distribution at several temperatures: a bar for each token and temperature.

    Args:
        logits: [V], or log-probabilities, whose softmax is the same.
        temperatures: each above 0.
        tokens: a label for each logit; default its id.
        top: the number of most probable tokens with their own bars; the others share one.

    Raises:
        OptionError: `logits` is not a row of numbers, there is not one label for each, or a temperature is not above 0.
    """
    row = np.asarray(logits, np.float32)
    if row.ndim != 1 or not np.isfinite(row).any() or not (row < np.inf).all():
        raise OptionError(f"logits of shape {list(row.shape)}: expected one row [V] of numbers (or -inf)")
    if tokens is not None and len(tokens) != len(row):
        raise OptionError(f"tokens: found {len(tokens)} labels; expected one for each of the {len(row)} logits")
    if not len(temperatures) or not all(0 < t < math.inf for t in temperatures):
        raise OptionError(f"temperatures={temperatures!r}: expected finite numbers above 0")
    order = np.argsort(-row, kind="stable")[: whole_number("top", top, 1)]
    names = [label(str(i if tokens is None else tokens[i])) for i in order]
    others = len(row) - len(order)
    labels, style = drawable([*names, *[f"{others:,}\nothers"] * (others > 0)], "sans-serif")

    with styled():
        figure = Figure(figsize=(max(6.5, 0.3 * len(labels) + 1), 4), layout="constrained")
        axes = figure.add_subplot()
        bar = 0.8 / len(temperatures)
        for i, t in enumerate(temperatures):
            p = kernels.softmax(row[None], float(t))[0].astype(np.float64)
            heights = [*p[order], *[1 - p[order].sum()] * (others > 0)]
            entropy = -float((p[p > 0] * np.log2(p[p > 0])).sum())
            axes.bar(
                np.arange(len(labels)) + (i + 0.5) * bar - 0.4, heights, bar,
                color=_COLD_TO_HOT(0.1 + 0.7 * i / max(1, len(temperatures) - 1)), label=f"T = {t:g}: {entropy:.2f} bits",
            )  # fmt: skip
        axes.set_xticks(range(len(labels)), labels, rotation=0 if upright(names) else 90, **style)
        axes.set(xlabel="token, the most probable first", ylabel="probability", xlim=(-0.6, len(labels) - 0.4))
        axes.set_title("Temperature")
        figure.legend(title="temperature: entropy", loc="outside right upper")
    return figure
