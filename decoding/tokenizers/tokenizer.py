"""The kinds of tokenizers, each with the same two methods: a vocabulary, Hugging Face's, SentencePiece's, an object's."""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from decoding.errors import DecodeError, OptionError, shown
from decoding.tokenizers.extra import from_package

# Decoders of Hugging Face that may follow Fuse and still never change the text that earlier tokens have given.
_AFTER_FUSE = ("Fuse", "Strip")
# A token of ByteFallback. Its decoder makes characters of a run of them: if one byte is wrong, all are.
_BYTE = re.compile(r"<0x..>", re.S)
_BYTE_VALUE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


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
                words = text[position].isspace() and not any(map(str.isspace, "".join(self.tokens)))
                advice = (
                    "for tokens that are words between spaces, pass a tokenizer that splits there (docs/text.md)"
                    if words
                    else "leave it out or replace it"
                )
                raise OptionError(f"the text {_shorten(text)!r} has {text[position]!r} at position {position}, which is not in the model's "
                                  f"vocabulary of {len(self.tokens)} tokens; {advice}")  # fmt: skip
            ids.append(self._ids[match.group()])
            position = match.end()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens joined."""
        return "".join(self.tokens[i] for i in ids)


class HuggingFaceTokenizer:
    """A copy of a `tokenizers.Tokenizer`, without its truncation and padding, which are for batches of training.

    Attributes:
        size: one more than the highest id.
    """

    def __init__(self, tokenizer: Any) -> None:
        try:
            tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        except Exception:  # it has components written in Python, which cannot be copied
            if tokenizer.truncation or tokenizer.padding:
                raise OptionError("tokenizer: it truncates or pads, and cannot be copied; call no_truncation() and no_padding() on it") from None  # fmt: skip
        else:
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        decoders = _decoders(tokenizer.decoder)
        fused = next((i for i, d in enumerate(decoders) if d["type"] in ("Fuse", "ByteLevel")), len(decoders))
        self._rewrites = not all(map(_keeps_earlier_text, decoders[fused + 1 :]))
        self._byte_runs = any(d["type"] == "ByteFallback" for d in decoders)
        self._byte_level = any(d["type"] == "ByteLevel" for d in decoders)

    def __repr__(self) -> str:
        return f"Hugging Face tokenizer of {self._tokenizer.get_vocab_size()} tokens"

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""
        return _encoded(lambda: self._tokenizer.encode(text, add_special_tokens=False).ids, self, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included; ids without a token have none."""
        return _decoded(lambda: self._tokenizer.decode(list(ids), skip_special_tokens=False), self, ids)

    def joins_next(self, token: int) -> bool:
        """Return whether the text of a token is not known before that of the next: a byte of a run of them."""
        if self._rewrites or not self._byte_runs:
            return self._rewrites
        text = self._tokenizer.id_to_token(token)
        return text is None or _BYTE.fullmatch(text) is not None

    def special_ids(self) -> dict[str, int]:
        """Return the ids of the special tokens by their strings."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: index for index, token in sorted(added.items()) if token.special}

    def byte_tokens(self) -> dict[int, bytes]:
        """Return the bytes of the tokens that may be parts of characters: ByteLevel's, and those of ByteFallback."""
        added, tokens = self._tokenizer.get_added_tokens_decoder(), self._tokenizer.get_vocab(with_added_tokens=True)
        if self._byte_level:
            letters = _byte_letters()
            own = {i: token for token, i in tokens.items() if i not in added and letters.keys() >= set(token)}
            return {i: bytes(letters[letter] for letter in token) for i, token in own.items()}
        # A byte below 0x80 is a character, which the steps of the decoder after ByteFallback treat as any other.
        values = {i: int(token[3:5], 16) for token, i in tokens.items() if self._is_byte(token)}
        return {i: bytes([value]) for i, value in values.items() if value >= 0x80}

    def without_text(self) -> list[int]:
        """Return the ids of the special tokens, but not of bytes that are added as such."""
        return [i for token, i in self.special_ids().items() if not self._is_byte(token)]

    def _is_byte(self, token: str) -> bool:
        """Return whether ByteFallback makes a byte of a token."""
        return self._byte_runs and _BYTE_VALUE.fullmatch(token) is not None

    def token_id(self, token: str) -> int | None:
        """Return the id of a token; None where there is no such token."""
        index: int | None = self._tokenizer.token_to_id(token)
        return index

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids that the tokenizer itself puts before and after a text, by its post-processor."""
        return _around(lambda add: self._tokenizer.encode("a", add_special_tokens=add).ids, self)

    def token(self, index: int) -> str | None:
        """Return the string of an id as the tokenizer writes it; None where it has none."""
        found: str | None = self._tokenizer.id_to_token(index)
        return found

    def serialized(self) -> str:
        """Return the text of its tokenizer.json.

        Raises:
            OptionError: it has components that are written in Python.
        """
        text: str = from_package(
            self._tokenizer.to_str, OptionError, f"{self!r} cannot be written, as it has components in Python"
        )
        return text


class SentencePieceTokenizer:
    """A `sentencepiece.SentencePieceProcessor`.

    Attributes:
        size: number of pieces.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.size = int(processor.get_piece_size())

    def __repr__(self) -> str:
        return f"SentencePiece tokenizer of {self.size} pieces"

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special ids are added, whatever the processor was made for."""
        options = {"out_type": int, "add_bos": False, "add_eos": False, "enable_sampling": False}
        return _encoded(lambda: self._processor.encode(text, **options), self, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; ids without a piece have none."""
        known = [int(i) for i in ids if i < self.size]
        return _decoded(lambda: self._processor.decode(known, out_type=str) if known else "", self, ids)

    def without_text(self) -> list[int]:
        """Return the ids of control tokens, of the unknown token, and of those that are not used."""
        p = self._processor
        return [i for i in range(self.size) if p.is_control(i) or p.is_unknown(i) or p.is_unused(i)]

    def byte_tokens(self) -> dict[int, bytes]:
        """Return the bytes of the tokens that are parts of characters."""
        ids = [i for i in range(self.size) if self._processor.is_byte(i)]
        values = {i: int(self._processor.id_to_piece(i)[3:5], 16) for i in ids}
        return {i: bytes([value]) for i, value in values.items() if value >= 0x80}

    def special_id(self, kind: str) -> int | None:
        """Return the id of "bos", "eos" or "pad"; None where the model has none."""
        index = int(getattr(self._processor, f"{kind}_id")())
        return index if 0 <= index < self.size else None

    def token(self, index: int) -> str | None:
        """Return the piece of an id; None where it has none."""
        return str(self._processor.id_to_piece(index)) if index < self.size else None

    def serialized(self) -> bytes:
        """Return the bytes of its .model file."""
        return bytes(self._processor.serialized_model_proto())


class ObjectTokenizer:
    """An object of the caller's with encode() and decode(): a slow tokenizer of transformers, or one of his own.

    Attributes:
        size: number of ids, None where the object does not tell.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        of_transformers = hasattr(given, "convert_ids_to_tokens")
        self._encoding: dict[str, Any] = {"add_special_tokens": False} if of_transformers else {}
        # Clean-up ("do n ' t" to "don't") changes text that a stream has given already.
        self._decoding: dict[str, Any] = (
            {"skip_special_tokens": False, "clean_up_tokenization_spaces": False} if of_transformers else {}
        )
        self.size: int | None = len(given) if hasattr(given, "__len__") else getattr(given, "vocab_size", None)
        if not isinstance(self.size, int):
            self.size = None

    def __repr__(self) -> str:
        return f"{type(self._given).__name__}" + ("" if self.size is None else f" of {self.size} tokens")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return _encoded(lambda: self._given.encode(text, **self._encoding), self, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; ids that the object does not have, where it tells, have none."""
        known = [int(i) for i in ids if self.size is None or i < self.size]
        return _decoded(lambda: self._given.decode(known, **self._decoding), self, ids)

    def without_text(self) -> list[int]:
        """Return the ids of the special tokens, where the object tells, as those of transformers do."""
        return list(getattr(self._given, "all_special_ids", ()))

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids that a tokenizer of transformers puts before and after a text."""
        if not self._encoding:
            return (), ()
        return _around(lambda add: self._given.encode("a", add_special_tokens=add), self)


def token_strings(tokenizer: Tokenizer, size: int) -> list[str | None]:
    """Return the string of each id below `size` as its tokenizer writes it; where it does not tell, its text."""
    if isinstance(tokenizer, Vocabulary):
        return list(tokenizer.tokens[:size])
    if isinstance(tokenizer, HuggingFaceTokenizer | SentencePieceTokenizer):
        return [tokenizer.token(index) for index in range(size)]
    return [tokenizer.decode([index]) for index in range(size)]


def _encoded(call: Callable[[], Any], tokenizer: Any, text: str) -> list[int]:
    """Return the ids that a call encodes a text to.

    Raises:
        OptionError: it raises, or returns something else.
    """
    ids = from_package(call, OptionError, f"the text {_shorten(text)!r} cannot be encoded by the {tokenizer!r}")
    try:
        found = [operator.index(i) for i in ids]
    except TypeError:
        found = [-1]
    if min(found, default=0) >= 0:
        return found
    raise OptionError(f"tokenizer: encode() of the {tokenizer!r} returned {shown(ids)}; expected a list of ids")


def _decoded(call: Callable[[], Any], tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text that a call decodes ids to.

    Raises:
        DecodeError: it raises, or returns something else.
    """
    text = from_package(call, DecodeError, f"the ids {shown(list(ids))} cannot be decoded by the {tokenizer!r}")
    if isinstance(text, str):
        return text
    raise DecodeError(f"tokenizer: decode() of the {tokenizer!r} returned {shown(text)}; expected a string")


def _around(encode: Callable[[bool], Sequence[int]], tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special ids before and after a text: what encoding with special tokens adds to that without them."""
    what = f"tokenizer: the {tokenizer!r} cannot encode the text 'a'"
    plain = list(from_package(lambda: encode(False), OptionError, what))
    whole = list(from_package(lambda: encode(True), OptionError, what))
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def _decoders(decoder: Any) -> list[dict[str, Any]]:
    """Return the steps of a Hugging Face decoder as its JSON has them; none of one that is written in Python."""
    if decoder is None:
        return []
    try:
        state = json.loads(decoder.__getstate__())
    except Exception:
        return []
    return _flat(state)


@functools.cache
def _byte_letters() -> dict[str, int]:
    """Return the byte of each letter of ByteLevel (GPT-2): printable ones are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _flat(state: dict[str, Any]) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [step for inner in state["decoders"] for step in _flat(inner)]


def _keeps_earlier_text(step: dict[str, Any]) -> bool:
    """Return whether a decoder that sees the whole text never changes the beginning of it when more is added."""
    pattern = step.get("pattern", {}).get("String", "")
    return step["type"] in _AFTER_FUSE or (step["type"] == "Replace" and len(pattern) == 1)


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
