"""Finds fonts that have the characters of a text: matplotlib draws a box, and warns, for each character that its font lacks."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

# Looked at first, as they have many scripts or a common look of one; every other installed font comes after them.
_WIDELY_USED = ("Noto Sans", "Source Han", "WenQuanYi", "PingFang", "Hiragino", "YaHei", "SimHei", "Yu Gothic", "Malgun", "Arial Unicode")  # fmt: skip
# Fonts that claim every character and draw a box for it, or nothing.
_EMPTY = ("Last Resort", "LastResort", "Adobe Blank")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def drawable(texts: Sequence[str], family: str) -> tuple[list[str], dict[str, Any]]:
    """Return the texts, and the keywords of matplotlib's `Text` that draw them without boxes.

    Fonts are added to the family until every character has one. Characters that no installed font has are replaced,
    and named in one warning. A "$" stays a "$".
    """
    wanted = {char for text in texts for char in text} - {"\n"}
    families, missing = [family], _lacking(font_manager.findfont(font_manager.FontProperties(family=[family])), wanted)
    while missing and (name := _font_for(frozenset(missing))) is not None:
        families.append(name[0])
        missing = set(name[1])
    # Joiners and marks that no font draws by itself are left out; the text reads the same.
    table = {ord(c): "" if unicodedata.category(c) in ("Cf", "Mn") else _REPLACEMENT for c in missing}
    if lost := sorted(c for c in missing if table[ord(c)]):
        shown = "".join(lost[:20]) + ("..." if len(lost) > 20 else "")
        cache = f"{matplotlib.get_cachedir()}/fontlist*.json"
        warnings.warn(
            f"no installed font has {shown!r}: drawn as {_REPLACEMENT}; install one that does (for Chinese, Japanese and Korean "
            f"Noto Sans CJK, say), and delete {cache} so that matplotlib finds it",
            stacklevel=3,
        )
    return [text.translate(table) for text in texts], {"fontfamily": families, "parse_math": False}


def width(text: str) -> int:
    """Return the columns that a text takes in a fixed pitch: two for each wide character of East Asia, and at least one."""
    return max(1, sum(_columns(char) for char in text))


def pieces(text: str, columns: int) -> Iterator[str]:
    """Cut a text into pieces of at most `columns` columns."""
    start = used = 0
    for position, char in enumerate(text):
        if used + _columns(char) > columns:
            yield text[start:position]
            start, used = position, 0
        used += _columns(char)
    yield text[start:]


def _columns(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


@lru_cache(maxsize=64)
def _font_for(missing: frozenset[str]) -> tuple[str, frozenset[str]] | None:
    """Return the family that has most of the characters, and those that it lacks; None where no family has any."""
    best, fewest = None, missing
    for path, name in _installed():
        lacking = frozenset(_lacking(path, missing))
        if len(lacking) < len(fewest):
            best, fewest = (name, lacking), lacking
        if not lacking:
            break
    return best


def _installed() -> Iterable[tuple[str, str]]:
    """Return path and family of every installed font, upright ones of normal weight first."""
    fonts = [f for f in font_manager.fontManager.ttflist if not any(word in f.name for word in _EMPTY)]

    def order(font: Any) -> tuple[bool, bool, bool, str]:
        known = any(word in font.name for word in _WIDELY_USED)
        return not known, font.style != "normal", font.weight not in (400, "normal", "regular"), font.name

    return [(f.fname, f.name) for f in sorted(fonts, key=order)]


def _lacking(path: str, chars: Iterable[str]) -> set[str]:
    """Return the characters that a font file lacks: all where it cannot be read, or has pictures of one size only."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return set(chars)
    return {c for c in chars if not font.scalable or not font.get_char_index(ord(c))}
