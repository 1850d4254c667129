"""The tokenizer and the special ids of a model: from the caller, the file's metadata, or the files of its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.model.graph.graph import Graph
from decoding.model.roles.given import special_ids, vocabulary
from decoding.tokenizers import (
    METADATA_KEYS,
    PlainVocabulary,
    SpecialIds,
    Tokenizer,
    fitted,
    read_tokenizer,
    special_ids_of,
    stored_tokenizer,
    tokenizer_file,
)

# The ids before and after a text, where they are not BOS and EOS.
TEXT_START, TEXT_END = "decoding.text_start", "decoding.text_end"


@dataclass(frozen=True)
class EncoderText:
    """The tokenizer of an encoder, before the number of its ids is known.

    Attributes:
        given: the caller passed it.
        shared: it is the folder's, and is left out where it does not fit.
    """

    tokenizer: Tokenizer | PlainVocabulary | None = None
    given: bool = False
    shared: bool = False

    def fitted(self, ids: int, name: str) -> Tokenizer | None:
        """The tokenizer, after a check that it fits an encoder that takes this many ids (0: not known).

        Raises:
            OptionError: the caller's does not fit.
            ModelError: the file's does not fit.
        """
        read = self.tokenizer
        if read is None:
            return None
        if isinstance(read, PlainVocabulary):
            ids = ids or len(read.tokens)
        elif not ids:
            return read
        what, error = ("encoder_tokenizer", OptionError) if self.given else (f"{name}: vocabulary", ModelError)
        try:
            return fitted(read, ids, what, error, f"the encoder takes {ids} ids")
        except error:
            if self.shared:
                return None
            raise


NO_TEXT = EncoderText()


def text_of(
    graph: Graph, given: Any, ids: SpecialIds, folder: Path | None = None
) -> Tokenizer | PlainVocabulary | None:
    """The tokenizer of a graph: the caller's, else the one in its metadata, else its folder's. Special ids go into the metadata.

    An id is the caller's, else the one in the metadata, else what the tokenizer or the folder says.

    Args:
        given: the caller's tokenizer, or None.
        ids: the caller's special ids.
        folder: of the file, where the caller passed the folder.

    Raises:
        OptionError: what the caller passed is no tokenizer.
        ModelError: the metadata is damaged.
    """
    stored = any(key in graph.metadata for key in METADATA_KEYS)
    if given is None and not stored and folder is not None and tokenizer_file(folder) is not None:
        given = folder
    tokenizer = _stored(graph) if given is None else read_tokenizer(given)
    # A tokenizer in the metadata brings no ids: they are beside it.
    brought = SpecialIds() if given is None else special_ids_of(given, tokenizer)
    if folder is not None:
        brought = special_ids_of(folder, tokenizer).over(brought)
    graph.set_metadata(special_id_metadata(graph.metadata, tokenizer, ids, brought))
    graph.set_metadata(dict.fromkeys(METADATA_KEYS))  # it may be large, and every copy of the graph would have it
    return tokenizer


def encoder_text(graph: Graph, given: Any, shared: Tokenizer | PlainVocabulary | None) -> EncoderText:
    """The tokenizer of an encoder's graph: the caller's, else the one in its metadata, else `shared`.

    Args:
        shared: the tokenizer of the folder, which a Hugging Face model has for both its parts.

    Raises:
        OptionError: what the caller passed is no tokenizer.
        ModelError: the metadata is damaged.
    """
    tokenizer = _stored(graph) if given is None else read_tokenizer(given, "encoder_tokenizer")
    fallback = tokenizer is None and shared is not None
    tokenizer = shared if fallback else tokenizer
    graph.set_metadata(special_id_metadata(graph.metadata, tokenizer, SpecialIds(), SpecialIds()))
    graph.set_metadata(dict.fromkeys(METADATA_KEYS))
    return EncoderText(tokenizer, given is not None, fallback)


def special_id_metadata(
    metadata: Mapping[str, str], tokenizer: Any, ids: SpecialIds, brought: SpecialIds
) -> dict[str, str | None]:
    """The entries of metadata that special ids need beside those that a file has.

    A text begins with BOS where the caller or the file says which id that is. Where the tokenizer alone does, it begins
    with the ids that the tokenizer itself puts there: GPT-2's has a BOS, and puts none.

    Args:
        ids: passed by the caller; `brought`: by the tokenizer.
    """
    entries: dict[str, str | None] = {}
    for key, passed, own in (("bos", ids.bos, brought.bos), ("pad", ids.pad, brought.pad)):
        if passed is not None or (own is not None and f"decoding.{key}" not in metadata):
            entries[f"decoding.{key}"] = json.dumps(own if passed is None else passed)
    if ids.eos or (brought.eos and "decoding.eos" not in metadata):
        entries["decoding.eos"] = json.dumps(list(ids.eos or brought.eos))
    knows_edges = tokenizer is not None and not isinstance(tokenizer, PlainVocabulary)
    around = tokenizer.around() if hasattr(tokenizer, "around") else ((), ())
    for key, edge, passed_one, texts in (
        (TEXT_START, "bos", ids.bos is not None, around[0]),
        (TEXT_END, "eos", bool(ids.eos), around[1]),
    ):
        if passed_one:
            entries[key] = None
        elif knows_edges and key not in metadata and f"decoding.{edge}" not in metadata:
            entries[key] = json.dumps(list(texts))
    return entries


def text_edges(graph: Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and after a text: those that the metadata say, else BOS and the first EOS.

    Raises:
        ModelError: one is no id.
    """
    start = special_ids(graph, TEXT_START if TEXT_START in graph.metadata else "decoding.bos")
    end = special_ids(graph, TEXT_END) if TEXT_END in graph.metadata else special_ids(graph, "decoding.eos")[:1]
    return start, end


def fitted_text(
    tokenizer: Tokenizer | PlainVocabulary | None, given: Any, vocab_size: int, name: str
) -> Tokenizer | None:
    """The tokenizer, after a check that it fits a model of `vocab_size` logits.

    Args:
        given: the caller's, or None; `name`: of the file.

    Raises:
        OptionError: the caller's does not fit.
        ModelError: the file's does not fit.
    """
    if tokenizer is None:
        return None
    if given is not None:
        return fitted(tokenizer, vocab_size, "tokenizer")
    what = "vocabulary" if isinstance(tokenizer, PlainVocabulary) else "tokenizer"
    return fitted(tokenizer, vocab_size, f"{name}: {what}", ModelError)


def check_special_ids(ids: SpecialIds, vocab_size: int) -> None:
    """Check that the ids that the caller passed are the model's.

    Raises:
        OptionError: one is not.
    """
    for name, one in ids.each():
        if one >= vocab_size:
            raise OptionError(
                f"{name}={one}: the model gives {vocab_size} logits; expected an id from 0 to {vocab_size - 1}"
            )


def _stored(graph: Graph) -> Tokenizer | PlainVocabulary | None:
    found = stored_tokenizer(graph.metadata, graph.name)
    if found is not None:
        return found
    vocab = vocabulary(graph)
    return None if vocab is None else PlainVocabulary(vocab)
