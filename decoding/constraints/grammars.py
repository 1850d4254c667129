"""`Regex`, `JSONSchema`, `Grammar` and `Choices`: what the caller says, as a grammar of llguidance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from decoding.constraints.bound import BoundConstraint
from decoding.constraints.spelling import Spelling, llguidance
from decoding.errors import OptionError, shown

# llguidance would else allow only one tokenization of a text that the grammar forces. At the end, so that the lines of
# its messages are those of the grammar.
_EVERY_SPELLING = '\n%llguidance {"no_forcing": true}\n'


# Models whose tokens a constraint remembers.
_MODELS_KEPT = 16


class Constraint:
    """A language that outputs obey. It is given among `processors=`, in their order, and has no state: calls share it.

    Only tokens that lead to a text of the language are allowed. EOS is allowed only where the text may end. Where it must
    end, the output does, also of a model without EOS: its finish reason is then "stop". `max_new_tokens` may cut it short
    ("length"). Of several constraints an output obeys all.
    """

    def __init__(self) -> None:
        self._bound: dict[object, BoundConstraint] = {}

    def grammar(self) -> str:
        """Return the grammar in llguidance's dialect of Lark."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not what was found out for models, which holds objects of llguidance."""
        return {**self.__dict__, "_bound": {}}

    def bound(self, spelling: Spelling, eos: tuple[int, ...]) -> BoundConstraint:
        """Return the constraint over the tokens of a model; one object for equal arguments.

        Raises:
            OptionError: the constraint is wrong, or no token can begin a text of it.
        """
        key = spelling, eos
        found = self._bound.get(key)
        if found is None:
            if len(self._bound) == _MODELS_KEPT:
                self._bound.clear()
            made = BoundConstraint(repr(self), self.grammar() + _EVERY_SPELLING, spelling, eos)
            found = self._bound.setdefault(key, made)
        return found


class Regex(Constraint):
    r"""Outputs that match a regular expression from their beginning to their end.

    Args:
        pattern: in the syntax of Rust's crate `regex`, which is Python's without look-around and backreferences.

    Example: ``Regex(r"\d{4}-\d\d-\d\d")``.
    """

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = _text("Regex(pattern", pattern)

    def __repr__(self) -> str:
        return f"Regex({shown(self.pattern)})"

    def grammar(self) -> str:
        """Return the grammar in llguidance's dialect of Lark."""
        return f"start: /{llguidance().regex_to_lark(self.pattern, '')}/"


class JSONSchema(Constraint):
    """Outputs that are JSON texts of a schema.

    Args:
        schema: a JSON schema, as a dict or as text; see docs/constraints.md for the keywords. ``"x-guidance"`` in it sets
            the white space between parts: by default any is allowed.

    Example: ``JSONSchema({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})``.
    """

    def __init__(self, schema: Mapping[str, Any] | bool | str) -> None:
        super().__init__()
        try:
            self.schema = json.loads(schema) if isinstance(schema, str) else schema
            self._text = json.dumps(self.schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(f"JSONSchema(schema={shown(schema)}): it is no JSON: {error}") from error
        if not isinstance(self.schema, Mapping | bool):
            raise OptionError(f"JSONSchema(schema={shown(schema)}): expected a dict, or its JSON text")

    def __repr__(self) -> str:
        return f"JSONSchema({shown(self.schema)})"

    def grammar(self) -> str:
        """Return the grammar in llguidance's dialect of Lark."""
        return f"start: %json {self._text}"


class Grammar(Constraint):
    """Outputs that a context-free grammar derives from its rule `start`.

    Args:
        text: in llguidance's dialect of Lark. Its lexer is greedy: a terminal takes the longest text that it matches.

    Example: a Dyck language, ``Grammar('start: ("(" start ")")*')``.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = _text("Grammar(text", text)

    def __repr__(self) -> str:
        return f"Grammar({shown(self.text)})"

    def grammar(self) -> str:
        """Return the grammar in llguidance's dialect of Lark."""
        return self.text


class Choices(Constraint):
    """Outputs that are one of several texts.

    Args:
        texts: at least one.

    Example: ``Choices(["yes", "no"])``.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        super().__init__()
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise OptionError(f"Choices(texts={shown(texts)}): expected a list of strings")
        self.texts = [_text("Choices(texts", text) for text in texts]
        if not self.texts:
            raise OptionError("Choices(texts=[]): at least one text is needed")

    def __repr__(self) -> str:
        return f"Choices({shown(self.texts)})"

    def grammar(self) -> str:
        """Return the grammar in llguidance's dialect of Lark."""
        return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in self.texts)


def _text(name: str, value: Any) -> str:
    """Return a text.

    Raises:
        OptionError: it is none, or has a part of a character (a lone surrogate).
    """
    if not isinstance(value, str):
        raise OptionError(f"{name}={shown(value)}): expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{name}={shown(value)}): it is no text: {error}") from error
    return value
