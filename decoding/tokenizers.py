"""Tokenizers turn text into ids and back: a vocabulary in the file, Hugging Face tokenizers, SentencePiece."""

from __future__ import annotations

import importlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from decoding.errors import ModelError, OptionError


class Tokenizer(Protocol):
    """The two methods that every tokenizer has."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""


class Vocabulary:
    """A list of token strings; the position in the list is the id.

    Text is cut from the left into the longest tokens that fit, which for a vocabulary of single
    characters is one id a character.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        self._ids: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            self._ids.setdefault(token, index)  # of equal tokens the lowest id counts
        longest_first = sorted((t for t in self._ids if t), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.S)

    def __repr__(self) -> str:
        named = sum(map(bool, self.tokens))
        return f"vocabulary of {named} tokens" + (f" for {len(self.tokens)} ids" if named < len(self.tokens) else "")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            OptionError: no token covers a character.
        """
        ids, position = [], 0
        while position < len(text):
            match = self._pattern.match(text, position)
            if match is None:
                raise OptionError(f"the text {_shorten(text)!r} has {text[position]!r} at position {position}, which is not in the model's "
                                  f"vocabulary of {len(self.tokens)} tokens; leave it out or replace it")  # fmt: skip
            ids.append(self._ids[match.group()])
            position = match.end()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens joined."""
        return "".join(self.tokens[i] for i in ids)


class HuggingFaceTokenizer:
    """A `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"Hugging Face tokenizer of {self._tokenizer.get_vocab_size()} tokens"

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


class SentencePieceTokenizer:
    """A `sentencepiece.SentencePieceProcessor`."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __repr__(self) -> str:
        return f"SentencePiece tokenizer of {self._processor.get_piece_size()} pieces"

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._processor.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._processor.decode([int(i) for i in ids]))


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text that each id adds to the text of all; joined they are that text.

    A token's share can depend on its neighbours: a space before a word, a character whose bytes are several
    tokens (the last of them has it).
    """
    if isinstance(tokenizer, Vocabulary):
        return [tokenizer.tokens[i] for i in ids]
    whole = tokenizer.decode(ids)
    ends = [0]
    for read in range(1, len(ids)):
        same = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(whole, tokenizer.decode(ids[:read]), strict=False)
        )
        ends.append(max(ends[-1], sum(1 for _ in same)))
    return [whole[start:end] for start, end in itertools.pairwise([*ends, len(whole)])] if len(ids) else []


def make_tokenizer(given: Any, vocab: Any, vocab_size: int) -> Tokenizer | None:
    """Return a tokenizer: of the one that the caller passed, else of the vocabulary in the file, else None.

    Args:
        given: a list of tokens, a dict from token to id, a path, or a tokenizer of some kind.
        vocab: the vocabulary of the file, or None.
        vocab_size: number of logits.

    Raises:
        OptionError: `given` is none of these, its file does not exist, or its package is not installed.
        ModelError: the vocabulary has a token of no logit.
    """
    if given is None:
        if vocab is None:
            return None
        return Vocabulary(_token_list(vocab, vocab_size))
    if isinstance(given, str | Path):
        return _from_file(Path(given))
    if isinstance(given, list | tuple | dict):
        return Vocabulary(_token_list(given, vocab_size))
    if hasattr(given, "get_piece_size"):
        return SentencePieceTokenizer(given)
    if hasattr(given, "get_vocab_size"):
        return HuggingFaceTokenizer(given)
    if hasattr(given, "encode") and hasattr(given, "decode"):
        return given  # type: ignore[no-any-return]
    raise OptionError(f"tokenizer: {type(given).__name__} is not a list of tokens, a path, a tokenizers.Tokenizer, a SentencePieceProcessor "
                      "or an object with encode() and decode()")  # fmt: skip


def _token_list(vocab: Any, vocab_size: int) -> list[str]:
    if isinstance(vocab, Mapping):
        tokens = [""] * vocab_size
        for token, index in vocab.items():
            if not isinstance(token, str):
                raise ModelError(f"vocabulary: {token!r} is no token; expected a dict from string to id")
            if not (isinstance(index, int) and 0 <= index < vocab_size):
                raise ModelError(
                    f"vocabulary: the token {token!r} has id {index!r}, but the model gives {vocab_size} logits (ids 0 to {vocab_size - 1})"
                )
            tokens[index] = token
        return tokens
    if not (isinstance(vocab, list | tuple) and all(isinstance(t, str) for t in vocab)):
        raise ModelError("vocabulary: expected a list of strings, one an id, or a dict from string to id")
    if len(vocab) > vocab_size:
        raise ModelError(
            f"vocabulary: {len(vocab)} tokens, but the model gives {vocab_size} logits; they belong to different models"
        )
    return [*vocab, *[""] * (vocab_size - len(vocab))]


def _from_file(path: Path) -> Tokenizer:
    if not os.path.isfile(path):  # Path.is_file() raises where a name is longer than a file system takes
        raise OptionError(f"tokenizer: no such file: {path}")
    if path.suffix == ".json":
        fast = _extra("tokenizers", path).Tokenizer
        return HuggingFaceTokenizer(fast.from_file(str(path)))
    if path.suffix == ".model":
        return SentencePieceTokenizer(_extra("sentencepiece", path).SentencePieceProcessor(model_file=str(path)))
    raise OptionError(f"tokenizer: {path}: expected a Hugging Face tokenizer.json or a SentencePiece .model file")


def _extra(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise OptionError(f"tokenizer: {path} needs the package {module}; pip install 'rnn-decoding[text]'") from error


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
