"""Makes a tokenizer of what the caller passed or the file holds, and checks that it fits the model's vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.errors import DecodingError, ModelError, OptionError, shown
from decoding.tokenizers.extra import extra, from_package
from decoding.tokenizers.tokenizer import (
    HuggingFaceTokenizer,
    ObjectTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    Vocabulary,
)

# Ids without a token that any model may have: special ids that are no text.
_SPECIAL = 8
# Exporters and trainers round the rows of an embedding up to a multiple of these, for the speed of the hardware.
_MULTIPLES = (8, 16, 32, 64, 128)
# Files of a folder that hold its tokenizer; the first one that it has counts.
FOLDER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class PlainVocabulary:
    """A list of tokens or a dict from token to id, before the number of ids is known."""

    tokens: Any


def make_tokenizer(given: Any, vocab: Any, vocab_size: int) -> Tokenizer | None:
    """Return a tokenizer: of the one that the caller passed, else of the vocabulary in the file, else None.

    Args:
        given: a list of tokens, a dict from token to id, a path, or a tokenizer of some kind.
        vocab: the vocabulary of the file, or None.
        vocab_size: number of logits.

    Raises:
        OptionError: `given` is none of these, its file does not exist, its package is not installed, or it does not fit.
        ModelError: the vocabulary of the file does not fit.
    """
    if given is not None:
        return fitted(read_tokenizer(given), vocab_size, "tokenizer", OptionError)
    return None if vocab is None else fitted(PlainVocabulary(vocab), vocab_size, "vocabulary", ModelError)


def read_tokenizer(given: Any, name: str = "tokenizer") -> Tokenizer | PlainVocabulary:
    """Return the tokenizer that the caller passed.

    Args:
        given: a list of tokens, a dict from token to id, the path of a tokenizer.json, of a .model file or of a folder with one,
            a `tokenizers.Tokenizer`, a `SentencePieceProcessor`, a tokenizer of transformers, or an object with encode() and decode().
        name: the argument in messages.

    Raises:
        OptionError: it is none of these, a file cannot be read, or its package is not installed.
    """
    if isinstance(given, str | Path):
        return _from_path(Path(given), name)
    if isinstance(given, list | tuple | dict):
        return PlainVocabulary(given)
    if hasattr(given, "get_piece_size"):
        return SentencePieceTokenizer(given)
    if hasattr(given, "backend_tokenizer"):  # a fast tokenizer of transformers
        return HuggingFaceTokenizer(given.backend_tokenizer)
    if hasattr(given, "get_vocab_size") and hasattr(given, "to_str"):
        return HuggingFaceTokenizer(getattr(given, "_tokenizer", given))  # tokenizers.implementations wrap one
    if hasattr(given, "encode") and hasattr(given, "decode") and not isinstance(given, type | bytes):
        return ObjectTokenizer(given)
    raise OptionError(f"{name}: {type(given).__name__} is not a list of tokens, a path, a tokenizers.Tokenizer, a SentencePieceProcessor, "
                      "a tokenizer of transformers or an object with encode() and decode()")  # fmt: skip


def fitted(
    read: Tokenizer | PlainVocabulary,
    vocab_size: int,
    name: str,
    error: type[DecodingError] = OptionError,
    ids: str | None = None,
) -> Tokenizer:
    """Return a tokenizer for a model of `vocab_size` ids.

    Every token needs an id of the model. The model may have ids without a token where their number is usual: at most 8 or 1 %
    of all, or as many as rounding the number of tokens up to a multiple of 8, 16, 32, 64 or 128 adds.

    Args:
        name: the argument in messages.
        ids: where these ids are, for messages; by default they are the logits.

    Raises:
        error: it has tokens for more ids, or for too few.
    """
    ids = ids or f"the model gives {vocab_size} logits"
    size: int | None = getattr(read, "size", None)
    if isinstance(read, PlainVocabulary):
        size = _count(read.tokens, vocab_size, name, error, ids)
    if size is not None and size > vocab_size:
        raise error(f"{name}: {size} tokens, but {ids}; they belong to different models")
    if size is not None and not _pads(size, vocab_size):
        raise error(
            f"{name}: only {size} tokens, but {ids}, which is more than padding explains; they belong to "
            f"different models, or pass a list of {vocab_size} strings, with '' for each id that has no text"
        )
    return Vocabulary(_token_list(read.tokens, vocab_size)) if isinstance(read, PlainVocabulary) else read


def _pads(size: int, vocab_size: int) -> bool:
    """Return whether special ids or padding of the embedding explain the ids beyond the tokens."""
    rounded = {-(-size // multiple) * multiple for multiple in _MULTIPLES}
    return vocab_size - size <= max(_SPECIAL, vocab_size // 100) or vocab_size in rounded


def tokenizer_file(folder: Path) -> Path | None:
    """Return the file of a folder that holds its tokenizer; None where there is none."""
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)


def _count(vocab: Any, vocab_size: int, name: str, error: type[DecodingError], ids: str) -> int:
    """Return the number of ids that a vocabulary names.

    Raises:
        error: it is no vocabulary, or a token has an id that the model has not.
    """
    if isinstance(vocab, Mapping):
        for token, index in vocab.items():
            if not isinstance(token, str):
                raise error(f"{name}: {shown(token)} is no token; expected a dict from string to id")
            if not (isinstance(index, int) and 0 <= index < vocab_size):
                raise error(
                    f"{name}: the token {shown(token)} has id {shown(index)}, but {ids} (ids 0 to {vocab_size - 1})"
                )
        return len(set(vocab.values()))
    if not (isinstance(vocab, list | tuple) and all(isinstance(t, str) for t in vocab)):
        raise error(f"{name}: expected a list of strings, one an id, or a dict from string to id")
    return len(vocab)


def _token_list(vocab: Any, vocab_size: int) -> list[str]:
    """Return a token for each id, "" where there is none."""
    tokens = [""] * vocab_size
    for token, index in vocab.items() if isinstance(vocab, Mapping) else zip(vocab, range(vocab_size), strict=False):
        tokens[index] = token
    return tokens


def _from_path(path: Path, name: str) -> Tokenizer:
    if os.path.isdir(path):
        file = tokenizer_file(path)
        if file is None:
            raise OptionError(f"{name}: the folder {path} has no {', '.join(FOLDER_FILES)}; pass the path of a file")
        path = file
    if not os.path.isfile(path):  # Path.is_file() raises where a name is longer than a file system takes
        raise OptionError(f"{name}: no such file: {path}")
    if path.suffix == ".json":
        package = extra("tokenizers", str(path))
        return HuggingFaceTokenizer(
            from_package(
                lambda: package.Tokenizer.from_file(str(path)), OptionError, f"{name}: {path} is no tokenizer.json"
            )
        )
    if path.suffix == ".model":
        package = extra("sentencepiece", str(path))
        return SentencePieceTokenizer(
            from_package(
                lambda: package.SentencePieceProcessor(model_file=str(path)),
                OptionError,
                f"{name}: {path} is no SentencePiece model",
            )
        )
    raise OptionError(
        f"{name}: {path}: expected a Hugging Face tokenizer.json, a SentencePiece .model file, or a folder with one"
    )
