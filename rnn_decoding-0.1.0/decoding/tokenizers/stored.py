"""A tokenizer in an ONNX file's metadata: how it is written, and read again."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.tokenizers.extra import extra, from_package
from decoding.tokenizers.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer, Vocabulary

_HUGGING_FACE, _SENTENCE_PIECE, _VOCABULARY = "decoding.tokenizer", "decoding.sentencepiece", "decoding.vocab"
METADATA_KEYS = (_HUGGING_FACE, _SENTENCE_PIECE, _VOCABULARY)


def tokenizer_metadata(tokenizer: Tokenizer | None) -> dict[str, str | None]:
    """Return the entries of metadata that hold a tokenizer, None for those that must not be there.

    ``decoding.tokenizer`` holds a Hugging Face tokenizer.json, ``decoding.sentencepiece`` a SentencePiece model as base64,
    ``decoding.vocab`` a JSON list of tokens.

    Raises:
        OptionError: it is an object with encode() and decode(), which cannot be written.
    """
    entries: dict[str, str | None] = dict.fromkeys(METADATA_KEYS)
    if isinstance(tokenizer, HuggingFaceTokenizer):
        entries[_HUGGING_FACE] = tokenizer.serialized()
    elif isinstance(tokenizer, SentencePieceTokenizer):
        entries[_SENTENCE_PIECE] = base64.b64encode(tokenizer.serialized()).decode()
    elif isinstance(tokenizer, Vocabulary):
        entries[_VOCABULARY] = json.dumps(tokenizer.tokens)
    elif tokenizer is not None:
        raise OptionError(
            f"tokenizer: a {tokenizer!r} cannot be written into a file; load the model without tokenizer=, save it, and pass tokenizer= "
            "when the saved file is loaded (or pass a fast tokenizer, a SentencePiece model or a vocabulary)"
        )
    return entries


def stored_tokenizer(metadata: Mapping[str, str], name: str) -> HuggingFaceTokenizer | SentencePieceTokenizer | None:
    """Return the Hugging Face or SentencePiece tokenizer in a file's metadata; None where there is none.

    Args:
        name: of the file, for messages.

    Raises:
        ModelError: the entry is damaged.
        OptionError: the package that reads it is not installed.
    """
    if (text := metadata.get(_HUGGING_FACE)) is not None:
        what = f"{name}: metadata {_HUGGING_FACE!r}"
        package = extra("tokenizers", what)
        return HuggingFaceTokenizer(
            from_package(lambda: package.Tokenizer.from_str(text), ModelError, f"{what} is no tokenizer.json")
        )
    if (text := metadata.get(_SENTENCE_PIECE)) is not None:
        what = f"{name}: metadata {_SENTENCE_PIECE!r}"
        package = extra("sentencepiece", what)
        return SentencePieceTokenizer(_sentence_piece(package, text, what))
    return None


def _sentence_piece(package: Any, text: str, what: str) -> Any:
    try:
        model = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelError(f"{what} is not base64 ({error}); write it with base64.b64encode") from error
    if not model:
        raise ModelError(f"{what} is empty; write it with base64.b64encode")
    return from_package(
        lambda: package.SentencePieceProcessor(model_proto=model), ModelError, f"{what} is no SentencePiece model"
    )
