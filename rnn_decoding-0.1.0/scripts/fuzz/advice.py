"""Roles that an error advises, as a reader would fill them in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from scripts.fuzz.case import Rng, one_of
from scripts.fuzz.odd import NUMBERS

_WORD = re.compile(r"'[^']*'|\"[^\"]*\"|\.\.\.|[A-Za-z_]+")


def advised(rng: Rng, message: str, names: list[str]) -> dict[str, Any] | None:
    """One of the roles that a message says to pass, its open places filled with names of the file; None where it says none."""
    found = [roles for text in _pieces(message) if (roles := _filled(rng, text, names)) is not None]
    return one_of(rng, found) if found else None


def _pieces(message: str) -> Iterator[str]:
    """The dicts after each ``roles=`` of a message."""
    for match in re.finditer(r"roles=(?=\{)", message):
        depth = 0
        for at in range(match.end(), len(message)):
            depth += {"{": 1, "}": -1}.get(message[at], 0)
            if depth == 0:
                yield message[match.end() : at + 1]
                break


def _filled(rng: Rng, text: str, names: list[str]) -> dict[str, Any] | None:
    def fill(match: re.Match[str]) -> str:
        word = match.group()
        if word[0] in "'\"" or word in ("None", "True", "False"):
            return word
        if word == "...":
            return "**{}" if rng.random() < 0.5 else repr(one_of(rng, names)) + ": 'normal'"
        if word in ("axis", "W", "value"):
            return repr(one_of(rng, [*NUMBERS, 1, 1, 2, 6]))
        return "" if word == "or" else repr(one_of(rng, names))

    try:
        roles = ast.literal_eval(_WORD.sub(fill, text).replace(", **{}", ""))
    except (SyntaxError, ValueError):
        return None
    return roles if isinstance(roles, dict) else None
