"""A model's vocabulary as llguidance reads it: the bytes of each token, in the middle of a text and at its beginning."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.errors import OptionError
from decoding.tokenizers import Tokenizer, token_bytes

Bits = npt.NDArray[np.uint32]

_made: weakref.WeakKeyDictionary[Any, dict[object, Spelling]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def llguidance() -> Any:
    """Return the package.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import llguidance as package
    except ModuleNotFoundError as error:
        raise OptionError("constraints need the package llguidance; pip install 'rnn-decoding[constraints]'") from error
    return package


class Spelling:
    """What the tokens of a vocabulary spell. It is shared by all constraints and threads.

    llguidance's ids are the model's; then comes `end`, an id of its own that it allows where a text may end (so that this
    does not depend on which ids are EOS); then the forms that tokens have only at the beginning of a text.

    Attributes:
        vocab_size: V, the number of the model's ids.
        words: 32-bit words of a mask as llguidance writes it; `own_words` of one over the model's ids.
        tokens: the vocabulary as llguidance takes it.
        first_ids: for each id, the id of its form at the beginning of a text; -1 where it has no bytes there.
        trims_all: whether the beginning lasts until a token has bytes.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, special: Collection[int]) -> None:
        package = llguidance()
        found = token_bytes(tokenizer, vocab_size, special)
        self.vocab_size, self.end, self.trims_all = vocab_size, vocab_size, found.trims_all
        spelled = [*found.after, b""]
        ids = {own: i for i, own in enumerate(found.after)}
        self.first_ids = []
        for first, after, i in zip(found.first, found.after, range(vocab_size), strict=True):
            if first not in ids:
                ids[first] = len(spelled)
                spelled.append(first)
            self.first_ids.append(-1 if not first else i if first == after else ids[first])
        self._trimmed = np.array(
            [not first and bool(after) for first, after in zip(found.first, found.after, strict=True)]
        )
        self._bytes = found
        self.words, self.own_words = -(-len(spelled) // 32), -(-vocab_size // 32)
        self.tokens = package.LLTokenizer(package.TokenizerWrapper(_Tokens(spelled, self.end)), slices=[])

    def first_bits(self, mask: Bits, *, goes_on: bool) -> Bits:
        """Return the mask of the first token of a text, of the model's ids, from the mask of all forms.

        Args:
            goes_on: whether anything may come; then tokens that have no bytes at the beginning may, too.
        """
        is_allowed = np.unpackbits(mask.view(np.uint8), bitorder="little").astype(bool)
        first = np.array(self.first_ids)
        own = np.zeros(32 * self.own_words, np.uint8)
        own[: self.vocab_size] = np.where(first >= 0, is_allowed[first], self._trimmed & goes_on)
        return np.packbits(own, bitorder="little").view(np.uint32)

    def text(self, ids: list[int]) -> bytes:
        """Return the bytes of the text of ids."""
        return self._bytes.join(ids)


class _Tokens:
    """The attributes that llguidance's TokenizerWrapper reads.

    Attributes:
        tokens: the bytes of each id; b"" of one that no text has.
    """

    bos_token_id = None

    def __init__(self, tokens: list[bytes], end: int) -> None:
        self.tokens, self.eos_token_id, self.special_token_ids = tokens, end, list[int]()

    def __call__(self, text: str | bytes) -> list[int]:
        """Return no tokens: it would be asked only for texts that a grammar forces, which grammars here do not (`no_forcing`)."""
        return []


def spelling_of(tokenizer: Tokenizer, vocab_size: int, special: frozenset[int]) -> Spelling:
    """Return the spelling of a tokenizer's tokens, made once.

    Raises:
        OptionError: llguidance is missing, or a text of this tokenizer is not made of the bytes of its tokens.
    """
    with _lock:
        of_tokenizer = _made.setdefault(tokenizer, {})
        key = vocab_size, special
        if key not in of_tokenizer:
            of_tokenizer[key] = Spelling(tokenizer, vocab_size, special)
        return of_tokenizer[key]
