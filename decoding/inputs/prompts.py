"""Reads prompts and sequences, in every form that decode() takes, as checked id arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding._types import Ids
from decoding.errors import OptionError
from decoding.model.model import Model


def encode_prompts(model: Model, prompts: Any, *, bos: bool = True, first: int = 0, name: str = "prompts") -> list[Ids]:
    """Return each prompt as int64 ids, at least one.

    Args:
        bos: put the model's `text_start` in front of texts.
        first: number of the first prompt in messages.
        name: the argument in messages.

    Raises:
        OptionError: a prompt is of a wrong kind, empty where the model has no BOS, holds a character outside
            the vocabulary or an id out of range; the message names the prompt.
    """
    return [
        _not_empty(model, ids, f"{name}[{i}]") for i, ids in enumerate(_each(model, prompts, bos, first, name), first)
    ]


def _each(model: Model, prompts: Any, bos: bool, first: int, name: str) -> list[Ids]:
    if hasattr(prompts, "__array__"):  # a tensor of torch, say
        prompts = np.asarray(prompts)
    if prompts is None:
        return [np.zeros(0, np.int64)]
    if isinstance(prompts, str):
        return [_from_text(model, prompts, bos, name)]
    if not isinstance(prompts, Sequence | np.ndarray):
        raise OptionError(
            f"{name}: {type(prompts).__name__} is not a string, a list of strings, ids, a list of id sequences, an array or None"
        )
    if isinstance(prompts, np.ndarray) and prompts.ndim not in (1, 2):
        raise OptionError(
            f"{name}: an array of shape {list(prompts.shape)}; expected one sequence of ids [T] or several [B, T]"
        )
    if isinstance(prompts, np.ndarray) and prompts.ndim == 2 and _all_ids(model, prompts):
        return list(prompts.astype(np.int64))
    if len(prompts) == 0:
        raise OptionError(
            f"{name} is empty: there is nothing to do; give at least one (for prompts, None starts from BOS)"
        )
    if isinstance(prompts[0], str):
        if wrong := [p for p in prompts if not isinstance(p, str)]:
            raise OptionError(
                f"{name}: strings and {type(wrong[0]).__name__} together; pass all as strings or all as ids"
            )
        return [_from_text(model, p, bos, name) for p in prompts]
    if isinstance(prompts[0], int | np.integer | float):
        return [checked_ids(model, prompts, name)]
    return [checked_ids(model, p, f"{name}[{i}]") for i, p in enumerate(prompts, first)]


def _all_ids(model: Model, array: npt.NDArray[Any]) -> bool:
    """Return whether an array holds ids within the vocabulary; if not, the rows are read one by one to name the wrong one."""
    whole = array.size > 0 and array.dtype.kind in "iu"
    return whole and bool(array.min() >= 0 and array.max() < model.vocab_size)


def _from_text(model: Model, text: str, bos: bool, name: str) -> Ids:
    if model.tokenizer is None:
        raise OptionError(
            f"{name}: {model.name} has no vocabulary, so a text cannot be read; pass ids, or load(..., tokenizer=...)"
        )
    start = list(model._text_start) if bos else []
    return checked_ids(model, start + model.tokenizer.encode(text), "the tokenizer's ids")


def checked_ids(model: Model, ids: Any, name: str) -> Ids:
    """Return one sequence of ids as int64, each within the vocabulary.

    Raises:
        OptionError: it is no such sequence; `name` is the sequence in the message.
    """
    if isinstance(ids, str):
        raise OptionError(f"{name}: strings and ids together; pass all as strings or all as ids")
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise OptionError(f"{name}: not one sequence of ids: {error}") from error
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise OptionError(f"{name}: {array.dtype} of shape {list(array.shape)}; expected whole-number ids of shape [T]")
    if array.min() < 0 or array.max() >= model.vocab_size:
        position = int(((array < 0) | (array >= model.vocab_size)).argmax())
        raise OptionError(
            f"{name}: id {array[position]} at position {position} is out of range; the model's ids go from 0 to {model.vocab_size - 1}"
        )
    return array.astype(np.int64)


def _not_empty(model: Model, ids: Ids, name: str) -> Ids:
    if ids.size:
        return ids
    if model.bos_token_id is None:
        raise OptionError(f"{name} is empty and {model.name} has no BOS to start from; give at least one token, "
                          "or put the id under decoding.bos into the file's metadata")  # fmt: skip
    return np.array([model.bos_token_id], np.int64)
