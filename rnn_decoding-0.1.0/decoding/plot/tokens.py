"""Draws tokens in lines of text, each shaded by its probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from decoding.errors import OptionError
from decoding.plot.glyphs import drawable, pieces, width
from decoding.plot.page import FONT_SIZE, box, text_page, texts_of, visible
from decoding.results import Hypothesis

_COLUMNS = 80
_NARROWEST = 56  # columns that the scale of probabilities needs
_MOST_TOKENS = 2000


def tokens(outputs: Hypothesis | Sequence[Hypothesis] | Sequence[str], logprobs: npt.ArrayLike | None = None) -> Figure:
    """Draw tokens in lines of text, each shaded by its probability.

    Args:
        outputs: one output of `decode()`, several, or the texts of some tokens together with `logprobs`.
        logprobs: log-probabilities of these tokens, as `score()` returns them; NaN leaves a token white.

    At most 2,000 tokens are drawn; a line says how many more there are.

    Raises:
        OptionError: there are no tokens, or texts without as many log-probabilities.
    """
    parts = _parts(outputs, logprobs)
    texts = [text for part in parts for text in part.texts]
    if not texts:
        raise OptionError("outputs: there are no tokens to draw")
    drawn, style = drawable([visible(text) for text in texts[:_MOST_TOKENS]], "monospace")
    placed, headings, columns, lines = _lay_out(parts, drawn)

    figure, (axes,) = text_page("Tokens shaded by probability", max(columns, _NARROWEST), [lines])
    for line, heading in headings:
        axes.text(0, line + 0.5, heading, va="center", fontsize=FONT_SIZE, style="italic")
    for piece in placed:
        box(axes, piece.x, piece.line, piece.text, piece.probability, style)
    if more := len(texts) - len(drawn):
        axes.text(0, lines, f"... and {more:,} more tokens", va="top", fontsize=FONT_SIZE)
    return figure


@dataclass(frozen=True)
class _Part:
    """Some tokens that belong together."""

    heading: str | None
    texts: list[str]
    probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Piece:
    """A token, or as much of it as fits into a line."""

    x: int
    line: int
    text: str
    probability: float


def _parts(outputs: Hypothesis | Sequence[Hypothesis] | Sequence[str], logprobs: npt.ArrayLike | None) -> list[_Part]:
    if logprobs is not None:
        return [_given(cast(Sequence[str], outputs), logprobs)]
    several = [outputs] if isinstance(outputs, Hypothesis) else list(outputs)
    if not all(isinstance(h, Hypothesis) for h in several):
        raise OptionError("outputs: found texts without logprobs=; pass these too, or outputs of decode()")
    return [_of(cast(Hypothesis, h), len(several) > 1) for h in several]


def _given(texts: Sequence[str], logprobs: npt.ArrayLike) -> _Part:
    values = np.asarray(logprobs, np.float64)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts) or values.shape != (len(texts),):
        raise OptionError(
            f"outputs and logprobs: {len(texts)} texts and log-probabilities of shape {list(values.shape)}; expected a list of "
            "texts, one a token, and a number for each"
        )
    return _Part(None, list(texts), np.exp(values))


def _of(hypothesis: Hypothesis, several: bool) -> _Part:
    """Return texts and probabilities of an output, EOS included."""
    h, texts = hypothesis, texts_of(hypothesis)
    texts += ["<EOS>"] * (len(h.token_logprobs) - len(texts))
    heading = f"prompt {h.prompt_index}, rank {h.rank}: score {h.score:.3f}, {h.finish_reason}" if several else None
    return _Part(heading, texts, np.exp(h.token_logprobs, dtype=np.float64))


def _lay_out(parts: Sequence[_Part], drawn: Sequence[str]) -> tuple[list[_Piece], list[tuple[int, str]], int, int]:
    """Lay tokens out in lines: return their pieces, the headings with their lines, and the columns and lines used.

    `drawn` has the texts of the tokens as they can be drawn, of all parts, or only of the first.
    """
    placed: list[_Piece] = []
    headings: list[tuple[int, str]] = []
    shown, x, line = iter(drawn), 0, 0
    for part in parts:
        if x:
            x, line = 0, line + 1
        if part.heading is not None:
            line += bool(headings)
            headings.append((line, part.heading))
            line += 1
        for text, probability, token in zip(part.texts, part.probabilities.tolist(), shown, strict=False):
            for piece in pieces(token, _COLUMNS):
                if x + width(piece) > _COLUMNS:
                    x, line = 0, line + 1
                placed.append(_Piece(x, line, piece, probability))
                x += width(piece)
            if text.endswith("\n"):
                x, line = 0, line + 1
    return placed, headings, max(p.x + width(p.text) for p in placed), line + (x > 0)
