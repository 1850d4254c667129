"""Draws how the beams of a search grew."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from decoding.engine.beam_trace import BeamNode, BeamTrace, beam_steps
from decoding.plot.glyphs import drawable, width
from decoding.plot.page import FONT_SIZE, box, label, text_page
from decoding.results import Hypothesis

_COLUMNS = 150  # a panel's width, in characters
_GAP = 3  # characters between two columns, for the lines
_PAD = 1  # characters in a box on each side of its text
_NARROWEST = 56  # characters that the scale of probabilities needs
_ROW = 0.32  # inches

# The lines to the best output, to the other outputs, and to beams that were given up.
_BEST: dict[str, Any] = {"color": "#222222", "linewidth": 2.0}
_OUTPUT: dict[str, Any] = {"color": "#777777", "linewidth": 1.0}
_GIVEN_UP: dict[str, Any] = {"color": "#999999", "linewidth": 0.8, "linestyle": ":"}


def beam_tree(hypotheses: Sequence[Hypothesis], trace: BeamTrace | None = None) -> Figure:
    """Draw how the beams of one prompt grew: a column for each new token, with a box for each beginning of an output.

    The boxes of a column are in the order of their log-probability, the likeliest on top, and shaded by the
    probability of their last token. Dark lines lead to the outputs, the thickest to the best; each ends in its rank, finish
    reason and score. Dotted lines lead to beams that were given up.

    Args:
        hypotheses: the outputs of one prompt, such as ``decode(..., Beam(4), num_return_sequences=4)``.
        trace: remembers the beams of their search; without it only the beginnings of the outputs are drawn.

    Raises:
        OptionError: there are no hypotheses, or they are of several prompts.
    """
    steps = beam_steps(hypotheses, trace)
    labels = [node.text if node.is_end else label(node.text) for step in steps for node in step]
    texts, style = drawable(labels, "monospace")
    for node, text in zip(itertools.chain(*steps), texts, strict=True):
        node.text = text
    panels = list(_panels([max(map(_wide, step)) for step in steps]))

    wide = max(_NARROWEST, *(panel[-1].right + _PAD for panel in panels))
    rows = [_rows(steps, panel) for panel in panels]
    figure, parts = text_page("Beams", wide, rows, line=_ROW, frame=0.5)
    for axes, panel in zip(parts, panels, strict=True):
        _draw_panel(axes, steps, panel, style)
    return figure


@dataclass(frozen=True)
class _Column:
    step: int
    left: int
    right: int


def _wide(node: BeamNode) -> int:
    return width(node.text) + 2 * _PAD


def _panels(widths: Sequence[int]) -> Iterator[list[_Column]]:
    """Yield columns of these widths side by side, in as many panels below each other as they need."""
    panel: list[_Column] = []
    for step, wide in enumerate(widths):
        left = panel[-1].right + _GAP if panel else _PAD
        if panel and left + wide > _COLUMNS:
            yield panel
            panel, left = [], _GAP
        panel.append(_Column(step, left, left + wide))
    yield panel


def _rows(steps: Sequence[Sequence[BeamNode]], panel: Sequence[_Column]) -> int:
    """Return the rows of a panel: enough for its columns, for the column before, where lines come from, and for its axis' label."""
    return max(4, *(len(steps[step]) for step in range(max(0, panel[0].step - 1), panel[-1].step + 1)))


def _draw_panel(
    axes: Axes, steps: Sequence[Sequence[BeamNode]], panel: Sequence[_Column], style: Mapping[str, Any]
) -> None:
    lefts = {column.step: column.left for column in panel}
    for node in itertools.chain(*(steps[step] for step in lefts)):
        _draw(axes, node, lefts, style)
    rows = range(_rows(steps, panel))
    centres = [(column.left + column.right) / 2 for column in panel]
    axes.set_xticks(centres, [str(step) for step in lefts], fontsize=FONT_SIZE - 1)
    axes.set_yticks([row + 0.5 for row in rows], [str(row) for row in rows], fontsize=FONT_SIZE - 1)
    axes.tick_params(length=0)
    axes.set_xlabel("new tokens", fontsize=FONT_SIZE, labelpad=1)
    axes.set_ylabel("by log-probability", fontsize=FONT_SIZE, labelpad=4)


def _draw(axes: Axes, node: BeamNode, lefts: Mapping[int, int], style: Mapping[str, Any]) -> None:
    """Draw a node, and the line from its parent or, where that is in the panel before, from the panel's edge."""
    x = lefts[node.step]
    line = _GIVEN_UP if node.best is None else _OUTPUT if node.best else _BEST
    if (parent := node.parent) is not None:
        start = lefts[parent.step] + _wide(parent) if parent.step in lefts else 0
        axes.add_line(Line2D((start, x), (parent.row + 0.5, node.row + 0.5), **line))
    edge = {"edgecolor": line["color"], "linewidth": line["linewidth"] / 2}
    box(axes, x, node.row, node.text, node.probability, style, pad=_PAD, **edge)
