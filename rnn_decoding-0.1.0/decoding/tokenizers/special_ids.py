"""Special ids: the ids of BOS, EOS and padding that a tokenizer or the files beside it bring."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.errors import OptionError, shown
from decoding.tokenizers.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer

# Names of special tokens in a tokenizer.json, which says only that they are special. The first one that it has counts.
_NAMES = {
    "bos": ("<s>", "<bos>", "[BOS]", "<BOS>", "<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "<sos>", "[SOS]"),
    "eos": ("</s>", "<eos>", "[EOS]", "<EOS>", "<|end_of_text|>", "<|endoftext|>", "<|eos|>", "<|im_end|>"),
    "pad": ("<pad>", "[PAD]", "<PAD>", "<|pad|>", "<|finetune_right_pad_id|>"),
}
_ID_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
# Files of a Hugging Face folder: those that name ids, then those that name tokens. The first one that says counts.
_ID_FILES = ("generation_config.json", "config.json")
_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class SpecialIds:
    """BOS, EOS (there may be several) and padding; None and () where they are not known."""

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None

    def over(self, other: SpecialIds) -> SpecialIds:
        """Return these ids, and those of `other` where these are not known."""
        return SpecialIds(
            other.bos if self.bos is None else self.bos,
            self.eos or other.eos,
            other.pad if self.pad is None else self.pad,
        )

    def each(self) -> Iterable[tuple[str, int]]:
        """Yield each id with its name as an argument."""
        kinds = ([self.bos], self.eos, [self.pad])
        return [(name, one) for name, ids in zip(_ID_NAMES, kinds, strict=True) for one in ids if one is not None]


def special_ids_of(given: Any, tokenizer: Any) -> SpecialIds:
    """Return the special ids that a tokenizer brings; none for a vocabulary, which does not say.

    Args:
        given: what the caller passed: a path, or an object, of whose attributes transformers' count.
        tokenizer: what was made of it.
    """
    if hasattr(given, "eos_token_id"):
        return _of_config({name: getattr(given, name, None) for name in _ID_NAMES}, type(given).__name__)
    of_folder = (
        _of_folder(Path(given), tokenizer) if isinstance(given, str | Path) and Path(given).is_dir() else SpecialIds()
    )
    if isinstance(tokenizer, HuggingFaceTokenizer):
        named = tokenizer.special_ids()
        first = {kind: next((named[name] for name in names if name in named), None) for kind, names in _NAMES.items()}
        eos = first["eos"]
        return of_folder.over(SpecialIds(first["bos"], () if eos is None else (eos,), first["pad"]))
    if isinstance(tokenizer, SentencePieceTokenizer):
        eos = tokenizer.special_id("eos")
        own = SpecialIds(tokenizer.special_id("bos"), () if eos is None else (eos,), tokenizer.special_id("pad"))
        return of_folder.over(own)
    return of_folder


def _of_folder(folder: Path, tokenizer: Any) -> SpecialIds:
    """Return the special ids that a folder's configuration files name."""
    found = SpecialIds()
    for name in _ID_FILES:
        config = read_json(folder / name) if (folder / name).is_file() else {}
        if (start := config.get("decoder_start_token_id")) is not None:
            config["bos_token_id"] = start  # what a decoder of a sequence-to-sequence model starts from
        found = found.over(_of_config(config, str(folder / name)))
    for name in _TOKEN_FILES if isinstance(tokenizer, HuggingFaceTokenizer) else ():
        config = read_json(folder / name) if (folder / name).is_file() else {}
        ids = {kind: _token_id(tokenizer, config.get(f"{kind}_token")) for kind in _NAMES}
        eos = ids["eos"]
        found = found.over(SpecialIds(ids["bos"], () if eos is None else (eos,), ids["pad"]))
    return found


def _token_id(tokenizer: HuggingFaceTokenizer, token: Any) -> int | None:
    """Return the id of a token as tokenizer_config.json writes it: its string, or a dict with its content."""
    text = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_id(text) if isinstance(text, str) else None


def _of_config(config: Mapping[str, Any], where: str) -> SpecialIds:
    """Return the special ids in a configuration by transformers' names.

    Raises:
        OptionError: one is no id.
    """
    bos, eos, pad = (config.get(name) for name in _ID_NAMES)
    return checked_special_ids(bos, eos, pad, [f"{where}: {name}" for name in _ID_NAMES])


def checked_special_ids(bos: Any, eos: Any, pad: Any, names: Sequence[str] = _ID_NAMES) -> SpecialIds:
    """Return special ids; for EOS a list of them will do, None for any that there is not.

    Args:
        names: the three in messages.

    Raises:
        OptionError: one is no id.
    """
    found: list[list[int]] = []
    for kind, name, value in zip(_NAMES, names, (bos, eos, pad), strict=True):
        several = kind == "eos" and isinstance(value, list | tuple)
        found.append([] if value is None else list(value) if several else [value])
        for one in found[-1]:
            if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < 2**31:
                wanted = "an id or a list of ids" if kind == "eos" else "an id"
                raise OptionError(f"{name}={shown(value)}: expected {wanted}, whole numbers of at least 0")
    first, ends, padding = found
    return SpecialIds(first[0] if first else None, tuple(ends), padding[0] if padding else None)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        OptionError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise OptionError(f"{path}: {shown(value)}; expected a JSON object")
    return value
