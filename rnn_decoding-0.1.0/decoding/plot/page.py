"""Parts that several pictures use: labels of tokens, the colours of probabilities, pages of text in boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from decoding.plot.glyphs import width
from decoding.results import Hypothesis

FONT_SIZE = 9  # points
COLUMN = 0.08  # inches of a character of DejaVu Sans Mono, hinted to whole pixels
LINE = 0.25  # inches
LONGEST_LABEL = 16  # characters

# White to the blue of a notebook's tables (decoding/results.py): dark text stays readable on it.
_COLOURS = LinearSegmentedColormap.from_list("probability", ["white", "#8eb6e6"])


def visible(text: str) -> str:
    """Return a token's text with visible line ends and tabs; other characters that cannot be printed are escaped."""
    marked = text.replace("\n", "↵").replace("\t", "⇥")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in marked)


def label(text: str) -> str:
    """Return a token's text as a label of one line that shows its spaces too; a long one is cut."""
    shown = visible(text).replace(" ", "␣")
    return shown if len(shown) <= LONGEST_LABEL else shown[: LONGEST_LABEL - 1] + "…"


def texts_of(hypothesis: Hypothesis) -> list[str]:
    """Return the text of each token, or its id where there is no tokenizer."""
    texts = hypothesis.token_texts
    return [str(token) for token in hypothesis.tokens] if texts is None else texts


def upright(labels: Sequence[str]) -> bool:
    """Return whether labels are short enough to be upright beside each other."""
    return all(width(label) <= 2 for label in labels)


def text_page(
    title: str, columns: int, panels: Sequence[int], *, line: float = LINE, frame: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Make a page of fixed-pitch text, with the scale of probabilities below.

    Args:
        columns: how many characters wide.
        panels: how many lines each part of the page has; each part gets axes whose units are columns and lines.
        line: height of a line in inches.
        frame: room for the axes' labels, left of each part and below it, in inches.
    """
    margin, head, foot = 0.12, 0.4, 0.62
    wide = columns * COLUMN + 2 * margin + frame
    tall = sum(panels) * line + len(panels) * frame + head + foot
    figure = Figure(figsize=(wide, tall))
    figure.text(margin / wide, 1 - 0.12 / tall, title, va="top", fontsize=12)
    parts, top = [], tall - head
    for lines in panels:
        bottom = top - lines * line
        axes = figure.add_axes((
            (margin + frame) / wide, bottom / tall, columns * COLUMN / wide, lines * line / tall,
        ))  # fmt: skip
        axes.set(xlim=(0, columns), ylim=(lines, 0))
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        parts.append(axes)
        top = bottom - frame
    scale = figure.add_axes((margin / wide, 0.38 / tall, 2.4 / wide, 0.1 / tall))
    figure.colorbar(ScalarMappable(Normalize(0, 1), _COLOURS), cax=scale, orientation="horizontal")
    scale.tick_params(labelsize=FONT_SIZE - 2, length=2)
    figure.text((margin + 2.6) / wide, 0.43 / tall, "probability of the token", va="center", fontsize=FONT_SIZE)
    return figure, parts


def box(
    axes: Axes,
    x: float,
    line: float,
    text: str,
    probability: float,
    style: Mapping[str, Any],
    *,
    pad: float = 0,
    **edge: Any,
) -> None:
    """Draw text in a box, `pad` columns wider on each side, shaded by a probability; NaN leaves it white."""
    colour = "none" if math.isnan(probability) else _COLOURS(probability)
    wide = width(text) + 2 * pad
    drawn = {"edgecolor": "white", "linewidth": 0.5, **edge}
    axes.add_patch(Rectangle((x, line + 0.06), wide, 0.88, facecolor=colour, **drawn))
    axes.text(x + wide / 2, line + 0.5, text, ha="center", va="center", fontsize=FONT_SIZE, **style)
