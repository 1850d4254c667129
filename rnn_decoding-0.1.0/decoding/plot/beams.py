"""Draws how the beams of a search grew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from decoding.errors import OptionError
from decoding.plot.glyphs import drawable, width
from decoding.plot.page import FONT_SIZE, box, label, text_page
from decoding.processors import History
from decoding.results import Hypothesis
from decoding.tokenizers import Tokenizer

_COLUMNS = 150  # a panel's width, in characters
_GAP = 3  # characters between two columns, for the lines
_PAD = 1  # characters in a box on each side of its text
_NARROWEST = 56  # characters that the scale of probabilities needs
_ROW = 0.32  # inches

# The lines to the best output, to the other outputs, and to beams that were given up.
_BEST: dict[str, Any] = {"color": "#222222", "linewidth": 2.0}
_OUTPUT: dict[str, Any] = {"color": "#777777", "linewidth": 1.0}
_GIVEN_UP: dict[str, Any] = {"color": "#999999", "linewidth": 0.8, "linestyle": ":"}


class BeamTrace:
    """Remembers every beam that was alive at some step, for `beam_tree()`: a processor that changes nothing.

    ``trace = BeamTrace(); out = decode(model, prompt, Beam(4), processors=[trace])``: it takes one prompt, and the trace must be
    the first processor. A later search clears it.

    Attributes:
        logprobs: the new tokens of each beam, and the log-probability of the last of them.
    """

    def __init__(self) -> None:
        self.logprobs: dict[tuple[int, ...], float] = {}
        self._rows: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}

    def __call__(self, history: History, logits: npt.NDArray[np.float32]) -> None:
        """Note the beams; in a beam search `logits` are the log-probabilities of the next token of each."""
        if len({ids.tobytes() for ids in history.prompts}) > 1:
            raise OptionError("BeamTrace: beams of several prompts; decode one prompt to see how its beams grew")
        beams = [tuple(output.tolist()) for output in history.outputs]
        if () in beams:
            self.logprobs.clear()
        self.logprobs.update({beam: float(self._rows[beam[:-1]][beam[-1]]) for beam in beams if beam})
        self._rows = {beam: row.copy() for beam, row in zip(beams, logits, strict=True)}


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
    if len({h.prompt_index for h in hypotheses}) != 1:
        found = sorted({h.prompt_index for h in hypotheses})
        raise OptionError(f"hypotheses of the prompts {found}: expected those of one, such as out.by_prompt()[0]")
    steps = _by_step(_beginnings(hypotheses, trace))
    texts, style = drawable([node.text for step in steps for node in step], "monospace")
    for node, text in zip(itertools.chain(*steps), texts, strict=True):
        node.text = text
    panels = list(_panels([max(map(_wide, step)) for step in steps]))

    wide = max(_NARROWEST, *(panel[-1].right + _PAD for panel in panels))
    rows = [_rows(steps, panel) for panel in panels]
    figure, parts = text_page("Beams", wide, rows, line=_ROW, frame=0.5)
    for axes, panel in zip(parts, panels, strict=True):
        _draw_panel(axes, steps, panel, style)
    return figure


@dataclass
class _Node:
    """The beginning of an output, or its end.

    Attributes:
        step: how many tokens it has, the end counted as one.
        text: of its last token.
        logprob: of all its tokens; `probability`: of the last one, NaN for an end that is no token.
        best: rank of the best output with this beginning, in the order given; None for a beam that was given up.
        row: in its column, 0 on top.
    """

    parent: _Node | None
    step: int
    text: str
    logprob: float
    probability: float
    best: int | None = None
    row: int = 0


@dataclass(frozen=True)
class _Column:
    step: int
    left: int
    right: int


def _beginnings(hypotheses: Sequence[Hypothesis], trace: BeamTrace | None) -> list[_Node]:
    """Return a node for every beginning, and an end for each output."""
    logprobs = dict(trace.logprobs) if trace is not None else {}
    for h in hypotheses:
        logprobs |= {tuple(h.tokens[: t + 1]): float(h.token_logprobs[t]) for t in range(len(h.tokens))}
    nodes: dict[tuple[int, ...], _Node] = {(): _Node(None, 0, "prompt", 0.0, math.nan)}
    for ids, text in _texts(sorted(logprobs, key=len), hypotheses[0]._tokenizer):
        parent, logprob = nodes[ids[:-1]], logprobs[ids]
        nodes[ids] = _Node(parent, len(ids), label(text), parent.logprob + logprob, math.exp(logprob))
    ends = [_end(h, nodes[tuple(h.tokens)]) for h in hypotheses]
    for order, end in enumerate(ends):
        node: _Node | None = end
        while node is not None and node.best is None:
            node.best, node = order, node.parent
    return [*nodes.values(), *ends]


def _texts(beginnings: Sequence[tuple[int, ...]], tokenizer: Tokenizer | None) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield each beginning with the text that its last token adds; parents come before their children."""
    whole: dict[tuple[int, ...], str] = {(): ""}
    for ids in beginnings:
        if tokenizer is None:
            yield ids, str(ids[-1])
        else:
            whole[ids], before = tokenizer.decode(list(ids)), whole[ids[:-1]]
            yield ids, whole[ids].removeprefix(before)


def _end(hypothesis: Hypothesis, parent: _Node) -> _Node:
    """Return the box after the last token, with the finish reason."""
    h = hypothesis
    last = h.token_logprobs[len(h.tokens) :].astype(np.float64)  # EOS's, where EOS ended it
    probability = math.exp(last[0]) if len(last) else math.nan
    text = f"{h.rank}: {h.finish_reason} {h.score:.2f}"
    return _Node(parent, parent.step + 1, text, parent.logprob + float(last.sum()), probability)


def _by_step(nodes: Sequence[_Node]) -> list[list[_Node]]:
    """Return the nodes of each step, the likeliest first, with their rows set."""
    steps: list[list[_Node]] = [[] for _ in range(max(node.step for node in nodes) + 1)]
    for node in sorted(nodes, key=lambda node: -node.logprob):
        node.row = len(steps[node.step])
        steps[node.step].append(node)
    return steps


def _wide(node: _Node) -> int:
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


def _rows(steps: Sequence[Sequence[_Node]], panel: Sequence[_Column]) -> int:
    """Return the rows of a panel: enough for its columns, for the column before, where lines come from, and for its axis' label."""
    return max(4, *(len(steps[step]) for step in range(max(0, panel[0].step - 1), panel[-1].step + 1)))


def _draw_panel(
    axes: Axes, steps: Sequence[Sequence[_Node]], panel: Sequence[_Column], style: Mapping[str, Any]
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


def _draw(axes: Axes, node: _Node, lefts: Mapping[int, int], style: Mapping[str, Any]) -> None:
    """Draw a node, and the line from its parent or, where that is in the panel before, from the panel's edge."""
    x = lefts[node.step]
    line = _GIVEN_UP if node.best is None else _OUTPUT if node.best else _BEST
    if (parent := node.parent) is not None:
        start = lefts[parent.step] + _wide(parent) if parent.step in lefts else 0
        axes.add_line(Line2D((start, x), (parent.row + 0.5, node.row + 0.5), **line))
    edge = {"edgecolor": line["color"], "linewidth": line["linewidth"] / 2}
    box(axes, x, node.row, node.text, node.probability, style, pad=_PAD, **edge)
