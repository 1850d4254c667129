"""Reads prompts and sequences, in every form that decode() takes, as checked id arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding._types import Ids
from decoding.arguments import ids_below
from decoding.errors import OptionError, shown
from decoding.model.ensembles.network import EnsembleNetwork, reads_apart
from decoding.model.model import Model
from decoding.model.network import Network


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


def prompts_by_member(
    model: Model, prompts: Any, *, first: int = 0, single: bool = False, name: str = "prompts"
) -> list[tuple[Ids, dict[str, Ids]]]:
    """Return the ids of each prompt, and those of the members of an ensemble that read others, by their names.

    Args:
        prompts: for all members; or a dict by their names, in which a member that is left out reads BOS, or the prompt that is
            its own. One prompt of a member stands for all.
        single: `prompts` is one prompt.

    Raises:
        OptionError: as `encode_prompts()`; or there is no such member, or members have different numbers of prompts.
    """
    return _of_network(model, model._network, prompts, first, single, name)


def _of_network(
    model: Model, network: Network, prompts: Any, first: int, single: bool, name: str
) -> list[tuple[Ids, dict[str, Ids]]]:
    """Return the prompts of a network; `model` is the whole that it is a member of, whose tokenizer and BOS hold for all."""
    by_name = isinstance(prompts, Mapping)
    if not isinstance(network, EnsembleNetwork) or not (by_name or reads_apart(network)):
        if by_name:
            raise OptionError(
                f"{name}: a dict of prompts is for the members of an ensemble, and {network.name} is none; pass the prompts"
            )
        given = [prompts] if single and prompts is not None else prompts
        return [(ids, {}) for ids in encode_prompts(model, given, first=first, name=name)]
    names = [member.name for member in network.members]
    if by_name and (unknown := [key for key in prompts if key not in names]):
        raise OptionError(f"{name}: there is no member {shown(unknown[0])}; {network.name} has {', '.join(names)}")
    columns = {}
    for member in network.members:
        own = prompts.get(member.name) if by_name else prompts
        if member.prompt and (own is None or not by_name):
            own = list(member.prompt)
        called = f"{name}[{member.name!r}]" if by_name else name
        columns[member.name] = _of_network(model, member.network, own, first, single, called)
    return _aligned(columns, name)


def _aligned(
    columns: Mapping[str, Sequence[tuple[Ids, dict[str, Ids]]]], name: str
) -> list[tuple[Ids, dict[str, Ids]]]:
    """Return for each prompt the ids of the first member, and those of the others that differ."""
    counts = {member: len(column) for member, column in columns.items()}
    count = max(counts.values())
    if set(counts.values()) - {1, count}:
        raise OptionError(f"{name}: the members have different numbers of prompts: {counts}")
    found = []
    for row in range(count):
        own = {member: column[row % len(column)] for member, column in columns.items()}
        ids = next(iter(own.values()))[0]
        others = {member: mine for member, (mine, _) in own.items() if not np.array_equal(mine, ids)}
        inner = {f"{member}.{key}": its for member, (_, more) in own.items() for key, its in more.items()}
        found.append((ids, others | inner))
    return found


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
        raise OptionError(f"{name} is empty; pass at least one (for prompts, None starts from BOS)")
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
    return ids_below(model.vocab_size, ids, name)


def _not_empty(model: Model, ids: Ids, name: str) -> Ids:
    if ids.size:
        return ids
    if model.bos_token_id is None:
        raise OptionError(f"{name} is empty and {model.name} has no BOS to start from; give at least one token, "
                          "or put the id under decoding.bos into the file's metadata")  # fmt: skip
    return np.array([model.bos_token_id], np.int64)
