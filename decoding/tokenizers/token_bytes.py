"""The bytes that each token adds to a text: what a grammar over texts needs to know of a vocabulary of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.errors import OptionError
from decoding.tokenizers.tokenizer import (
    HuggingFaceTokenizer,
    ObjectTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    Vocabulary,
)

# Random texts that are compared with the tokenizer's own, and the most tokens of each.
_TRIALS, _LONGEST = 500, 8
# Characters of every script whose UTF-8 has every byte of 0x80 and above that UTF-8 has.
_CHARACTERS = [
    chr(i)
    for start, end, step in (
        (0x80, 0x800, 0x1F),
        (0x800, 0xD800, 0x3C7),
        (0xE000, 0x10000, 0x3C7),
        (0x10000, 0x110000, 0xFFC1),
    )
    for i in range(start, end, step)
]


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of each id: UTF-8, and for a token that is a part of a character, that part.

    Attributes:
        first: at the beginning of a text; `after`: after other tokens, where words may begin with a space. An id that
            is no text (a special one, or one without a token) has b"" in both.
        trims_all: whether the beginning lasts until a token has bytes there (SentencePiece drops the spaces of all tokens
            before the first that has more). Else it is the first token alone.
    """

    first: list[bytes]
    after: list[bytes]
    trims_all: bool = False

    def join(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of the text of ids."""
        text, begins = b"", True
        for i in ids:
            own = self.first[i] if begins else self.after[i]
            begins = begins and self.trims_all and not own
            text += own
        return text


def token_bytes(tokenizer: Tokenizer, vocab_size: int, special: Collection[int]) -> TokenBytes:
    """Return the bytes of all tokens.

    Args:
        special: ids that are no text, besides those that the tokenizer itself says are none.

    Raises:
        OptionError: a text of this tokenizer is not made of the bytes of its tokens.
    """
    if isinstance(tokenizer, Vocabulary):
        texts = [b"" if i in special else t.encode("utf-8", "surrogatepass") for i, t in enumerate(tokenizer.tokens)]
        return TokenBytes(texts, texts)
    hidden = {*special, *_own_special(tokenizer)}
    ids = [i for i in range(min(vocab_size, tokenizer.size or vocab_size)) if i not in hidden]  # type: ignore[attr-defined]
    found = _found(tokenizer, vocab_size, ids, _partial(tokenizer, ids))
    _check(tokenizer, found)
    return found


def _found(tokenizer: Tokenizer, vocab_size: int, ids: Sequence[int], partial: Mapping[int, bytes]) -> TokenBytes:
    """Return what each id adds, alone and after an ordinary token.

    Args:
        partial: the bytes of ids that are parts of characters, whose text alone does not tell them.
    """
    first, after = [b""] * vocab_size, [b""] * vocab_size
    anchor, before = _anchor(tokenizer, ids)
    for i in ids:
        if i in partial:
            first[i] = after[i] = partial[i]
            continue
        text = tokenizer.decode([anchor, i])
        if not text.startswith(before):
            raise OptionError(
                f"constraints: the {tokenizer!r} has no fixed bytes for the token {i}: its text after {before!r} is {text!r}; "
                "constraints need a tokenizer whose text is the concatenation of its tokens' bytes"
            )
        first[i], after[i] = tokenizer.decode([i]).encode(), text[len(before) :].encode()
    trimmed = [i for i in ids if after[i] and not first[i]]
    return TokenBytes(first, after, bool(trimmed) and not tokenizer.decode([trimmed[0], trimmed[0]]))


def _anchor(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, str]:
    """Return an ordinary token, and its text: a letter or a word after which others keep their texts."""
    for i in ids:
        text = tokenizer.decode([i])
        if text.isascii() and text.isalpha() and tokenizer.decode([i, i]).startswith(text):
            return i, text
    raise OptionError(f"constraints: the {tokenizer!r} has no token of letters alone")


def _check(tokenizer: Tokenizer, found: TokenBytes) -> None:
    """Compare the texts of random ids with their joined bytes.

    Raises:
        OptionError: one differs.
    """
    rng = np.random.default_rng(0)
    ids = np.array([i for i, own in enumerate(found.after) if own])
    trimmed = [i for i, (first, after) in enumerate(zip(found.first, found.after, strict=True)) if after and not first]
    for trial, length in enumerate(1 + rng.integers(_LONGEST, size=_TRIALS)):
        some = trimmed[: trial % 3] + rng.choice(ids, length).tolist()
        try:
            joined = found.join(some).decode()
        except UnicodeDecodeError:
            continue  # no text: a grammar never comes to it
        text = tokenizer.decode(some)
        if text != joined:
            raise OptionError(
                f"constraints: the {tokenizer!r} decodes the tokens {some} to {text!r}, but one after the other they are "
                f"{joined!r}; constraints need a tokenizer whose text is the concatenation of its tokens' bytes"
            )


def _own_special(tokenizer: Any) -> Collection[int]:
    """Return the ids that the tokenizer itself says are no text."""
    kinds = HuggingFaceTokenizer | SentencePieceTokenizer | ObjectTokenizer
    return tokenizer.without_text() if isinstance(tokenizer, kinds) else ()


def _partial(tokenizer: Any, ids: Sequence[int]) -> Mapping[int, bytes]:
    """Return the bytes of the ids that may be parts of characters."""
    if isinstance(tokenizer, HuggingFaceTokenizer | SentencePieceTokenizer):
        return tokenizer.byte_tokens()
    suspects = {i for i in ids if "\ufffd" in tokenizer.decode([i])}
    return _bytes_of_characters(tokenizer, suspects) if suspects else {}


def _bytes_of_characters(tokenizer: Tokenizer, suspects: set[int]) -> dict[int, bytes]:
    """Return the bytes of ids by encoding characters: of one that has a token for each byte, they are known."""
    known: dict[int, bytes] = {}
    for character in _CHARACTERS:
        ids, own = tokenizer.encode(character), character.encode()
        if not suspects.intersection(ids):
            continue
        if len(ids) != len(own):
            raise OptionError(
                f"constraints: the {tokenizer!r} has tokens that are parts of characters, and does not tell their bytes; "
                "pass a tokenizer of Hugging Face or SentencePiece, or one with a token for each byte"
            )
        known |= {i: bytes([byte]) for i, byte in zip(ids, own, strict=True)}
    return {i: known.get(i, b"") for i in suspects}  # the others are bytes that no UTF-8 has: no text has them
