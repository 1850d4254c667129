"""A constraint over the tokens of one model."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoding.constraints.spelling import Bits, Spelling, llguidance
from decoding.errors import OptionError

# Matchers that wait to be used again: they know what they found out about the grammar, and a new one does not.
_KEPT = 256


class BoundConstraint:
    """A constraint over the tokens of one model, checked: its outputs can begin.

    Attributes:
        name: of it, in messages: long texts are cut.
        grammar: in llguidance's dialect of Lark.
        spelling: of the model's vocabulary.
        eos: the ids that end an output, which are allowed only where the text may end.
        first_bits: the mask of the first token.
        own: the model's ids but EOS, id t as bit t.
        may_be_empty: whether the empty text is one of it; `must_be_empty`: whether it has no other.

    Raises:
        OptionError: the grammar is wrong or matches nothing, or no token can begin a text of it.
    """

    def __init__(self, name: str, grammar: str, spelling: Spelling, eos: Sequence[int]) -> None:
        self.name, self.spelling, self.eos = name, spelling, np.array(sorted(set(eos)), np.int64)
        self.grammar, self._package = grammar, llguidance()
        self._template = self._package.LLMatcher(spelling.tokens, grammar, log_level=0)
        self._kept: deque[Any] = deque(maxlen=_KEPT)
        if self._template.is_error():
            raise OptionError(f"{name}: {shortened(self._template.get_error())}")
        self._find_beginnings()
        self.own = (1 << spelling.vocab_size) - 1 - sum(1 << token for token in self.eos.tolist())

    def __repr__(self) -> str:
        return self.name

    def start(self) -> Any:
        """Return llguidance's matcher before the first token."""
        try:
            return self._kept.pop()
        except IndexError:
            return self._template.deep_copy()

    def release(self, state: Any) -> None:
        """Keep a matcher that is not used any more."""
        if state.reset():
            self._kept.append(state)

    def with_ends(self, bits: Bits, may_end: Any) -> None:
        """Let EOS be chosen in the rows of masks where the text may end, and in no other, in place."""
        for token in self.eos.tolist():
            word, bit = token >> 5, np.uint32(1 << (token & 31))
            bits[:, word] = np.where(may_end, bits[:, word] | bit, bits[:, word] & ~bit)

    def why_stuck(self, ids: list[int]) -> str:
        """Return why no token can follow these."""
        text = self.spelling.text(ids)
        following, may_end = self._following(text)
        shown = repr(text.decode("utf-8", "replace"))
        if following:
            where = f"after {shown}" if text else "at the beginning"
            ends = ", or the end, but there is no EOS" if may_end and not len(self.eos) else ""
            return f"{self.name}: {where} must come {following}{ends}; no token of the vocabulary begins so"
        if may_end:
            return f"{self.name}: after {shown} only the end may come, which something else forbids"
        return f"{self.name}: no text goes on after {shown}"

    def _find_beginnings(self) -> None:
        """Find the tokens that may begin a text, and whether it may or must be empty.

        Raises:
            OptionError: the grammar matches nothing, or no token can begin a text of it.
        """
        mask = np.zeros((1, self.spelling.words), np.uint32)
        state = self._template.deep_copy()
        state.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        may_end = not state.is_error() and state.is_accepting()
        goes_on = not (state.is_error() or state.is_stopped())
        bits = self.spelling.first_bits(mask[0], goes_on=goes_on)[None]
        following = "" if bits.any() else self._following(b"")[0]
        self.may_be_empty, self.must_be_empty = may_end, may_end and not (bits.any() or following)
        if not bits.any() and not may_end:
            if not following:
                raise OptionError(f"{self.name}: it matches no text at all")
            raise OptionError(
                f"{self.name}: its texts begin with {following}, and no token of the model's vocabulary does"
            )
        self.with_ends(bits, np.array([may_end]))
        self.first_bits: Bits = bits[0]

    def _following(self, text: bytes) -> tuple[str, bool]:
        """Return what may come after a text, for messages, and whether it may end there."""
        state = self._package.LLMatcher(self._package.LLTokenizer("byte"), self.grammar, log_level=0)
        if text and not state.consume_tokens(list(text)):
            return "", False
        may_end, values = state.is_accepting(), _next_bytes(state)
        character = b""
        while len(values) == 1 and len(character) < 4:  # a character's bytes, as long as there is one of them alone
            character += bytes(values)
            if whole := character.decode("utf-8", "ignore"):
                return repr(whole), may_end
            state.consume_token(values[0])
            values = _next_bytes(state)
        return _listed([*character[:1]] or values), may_end


def _next_bytes(state: Any) -> list[int]:
    """Return the bytes that may come next, of a matcher over bytes."""
    mask = np.frombuffer(state.compute_bitmask(), np.uint8)
    is_allowed = np.unpackbits(mask, bitorder="little")[:256]
    return [] if state.is_error() else np.flatnonzero(is_allowed).tolist()


def _listed(values: list[int]) -> str:
    """Return bytes as a message shows them: characters, and numbers of those that are parts of one; runs as a range."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1 and (value < 0x80) == (runs[-1][0] < 0x80):
            runs[-1].append(value)
        else:
            runs.append([value])
    named = [_named(run[0]) if len(run) == 1 else f"{_named(run[0])} to {_named(run[-1])}" for run in runs]
    return ", ".join(named[:10]) + (f" or one of {len(named) - 10} others" if len(named) > 10 else "")


def _named(byte: int) -> str:
    return repr(chr(byte)) if byte < 0x80 else f"the byte 0x{byte:02X}"


def shortened(error: str) -> str:
    """Return llguidance's message without the state of its parser and the lines of the grammar."""
    return re.split(r"<state>|\n +\d+ \| ", error)[0].strip()
