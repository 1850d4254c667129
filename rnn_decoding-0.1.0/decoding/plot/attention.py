"""Draws the attention map of one output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from decoding.errors import OptionError
from decoding.plot.glyphs import drawable, width
from decoding.plot.page import FONT_SIZE, label, texts_of, upright
from decoding.results import Hypothesis

_LETTER = 0.09  # inches: about what a character of a label takes


def attention(hypothesis: Hypothesis, source: str | Sequence[Any] | None = None) -> Figure:
    """Draw the attention weights of one output: a row for each of its tokens, a column for each position of the source.

    Args:
        hypothesis: made with ``decode(..., return_attention=True)``.
        source: labels of the columns: a list with an entry for each position that the encoder read, or a string of one
            character for each. It may be shorter than the weights where these are zero after its end, as in a batch
            of unequal sources. None numbers the positions from 0.

    Raises:
        OptionError: there are no weights, or the source does not fit them.
    """
    weights = hypothesis.attention
    if weights is None:
        raise OptionError("hypothesis.attention is None: there is nothing to draw; decode with return_attention=True")
    if not weights.size:
        raise OptionError(f"hypothesis.attention has shape {list(weights.shape)}: there is nothing to draw")
    rows = [label(text) for text in texts_of(hypothesis)]
    columns = _source_labels(source, weights)
    labels, style = drawable([*rows, *columns], "sans-serif")
    rows, columns = labels[: len(rows)], labels[len(rows) :]

    cell = _cell(max(len(rows), len(columns)))
    turned = 0 if upright(columns) else 90
    beside = _LETTER * max(map(width, rows)) + 1.9
    above = _LETTER * (max(map(width, columns)) if turned else 2) + 0.9
    size = len(columns) * cell + beside, max(len(rows) * cell, 1.2) + above
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(weights[:, : len(columns)], cmap="Blues", vmin=0)
    _name_ticks(axes.xaxis, columns, cell, rotation=turned, **style)
    _name_ticks(axes.yaxis, rows, cell, **style)
    axes.set(xlabel="source token", ylabel="output token")
    axes.set_title("Attention", loc="left")
    figure.colorbar(image, label="attention weight", aspect=max(10, 6 * len(rows) * cell), pad=0.03)
    return figure


def _source_labels(source: str | Sequence[Any] | None, weights: npt.NDArray[np.float32]) -> list[str]:
    """Return a label for each column to draw.

    Raises:
        OptionError: the source is longer than the weights, or they are not zero after its end.
    """
    positions = weights.shape[1]
    if source is None:
        return [str(position) for position in range(positions)]
    labels = [label(str(token)) for token in source]
    beyond = weights[:, len(labels) :]
    if not 0 < len(labels) <= positions or beyond.any():
        after = f", and those after the source's end reach {beyond.max():.2g}" if beyond.size else ""
        raise OptionError(
            f"source: {len(labels)} tokens, but there are weights for {positions} positions{after}; "
            "pass a list of all tokens that the encoder read, with its special ones"
        )
    return labels


def _cell(count: int) -> float:
    """Return the size of a cell in inches: large for few tokens, and such that a page stays small for many."""
    return min(0.45, max(0.22, 6 / count)) if count <= 100 else max(0.05, 22 / count)


def _name_ticks(axis: Axis, labels: Sequence[str], cell: float, **style: Any) -> None:
    """Set a label at every token, or at every second, third ... one where labels would overlap."""
    every = math.ceil(0.15 / cell)
    shown = range(0, len(labels), every)
    axis.set_ticks(shown, [labels[i] for i in shown], fontsize=min(FONT_SIZE + 1, 50 * cell * every), **style)
