"""Reads the sources of encoders, in every form that decode() takes, as checked arrays for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding.arguments import named_values
from decoding.errors import OptionError, shown
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.encoders.chain import Encoders
from decoding.model.encoders.encoder import Encoder
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.tokenizers import token_texts


def encode_sources(model: Model, prompts: Any, *, first: int = 0, single: bool = False) -> list[dict[str, Any]]:
    """Return for each prompt {encoder input: array without a batch axis}, or a list of such arrays, one a turn.

    Args:
        first: number of the first prompt in messages.
        single: `prompts` is one source, as an iterable of them has it.

    Raises:
        OptionError: a source is of a wrong kind or shape, longer than the encoder takes, or holds an id out of range.
    """
    if isinstance(model, Ensemble):
        return _of_members(model, prompts, first, single)
    encoders = model._network.encoders
    assert encoders is not None
    inputs = encoders.sources
    if prompts is None and not inputs:
        return [{}]
    columns = {}
    for name, values in _by_input(model, encoders, prompts).items():
        place, aux = inputs[name]
        called = f"prompts[{name!r}]" if isinstance(prompts, Mapping) else "prompts"
        reader = _Reader(model, encoders.stages[place], aux, encoders.levels[place])
        columns[name] = reader.read(values, called, first, single)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise OptionError(f"prompts: the inputs have different numbers of sources: {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _of_members(model: Ensemble, prompts: Any, first: int, single: bool) -> list[dict[str, Any]]:
    """Return the sources of an ensemble by its own names.

    Prompts are those of every member with an encoder, or a dict of them: by member, or by the ensemble's own names, as this returns them.
    """
    readers = {name: own for name, own in model._readers().items() if own._network.encoders is not None}
    named = isinstance(prompts, Mapping) and bool(prompts)
    encoders = model._network.encoders
    if named and encoders is not None and prompts.keys() <= encoders.sources:
        prompts = {name: {} for name in readers} | _by_member(prompts)
    apart = named and prompts.keys() <= readers.keys()
    columns = {}
    for name, own in readers.items():
        if own._network.encoders is None or not own._network.encoders.sources:
            continue  # it reads latents alone
        rows = encode_sources(own, prompts.get(name) if apart else prompts, first=first, single=single)
        columns[name] = [{f"{name}.{key}": value for key, value in row.items()} for row in rows]
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise OptionError(f"prompts: the members have different numbers of sources: {counts}")
    if not columns:
        return [{}]
    return [{key: value for own in row for key, value in own.items()} for row in zip(*columns.values(), strict=True)]


def _by_member(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return values that have the ensemble's names, "MEMBER.input", in a dict for each member."""
    found: dict[str, dict[str, Any]] = {}
    for full, value in values.items():
        member, _, name = full.partition(".")
        found.setdefault(member, {})[name] = value
    return found


def source_length(model: Model, source: Mapping[str, Any]) -> int:
    """Return how many ids a source has, as `encode_sources()` returns it: in an ensemble, the most that a member reads."""
    if isinstance(model, Ensemble):
        readers = model._readers()
        return max((source_length(readers[name], own) for name, own in _by_member(source).items()), default=0)
    return sum(len(v) for v in source.values() if isinstance(v, np.ndarray) and v.ndim == 1 and v.dtype.kind == "i")


def source_tokens(model: Model, prompts: Any) -> list[str] | None:
    """Return the tokens of the first source, as texts; None where no encoder reads one sequence of ids that have texts."""
    encoders = model._network.encoders
    if encoders is None or isinstance(model, Ensemble):
        return None
    source = encode_sources(model, prompts)[0]
    if len(source) != 1:
        return None
    ((name, ids),) = source.items()
    tokenizer = encoders.stages[encoders.sources[name][0]].tokenizer
    are_ids = isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind == "i"
    return token_texts(tokenizer, ids.tolist()) if are_ids and tokenizer is not None else None


def _by_input(model: Model, encoders: Encoders, prompts: Any) -> dict[str, Any]:
    """Return the sources by encoder input: a dict has them so, and anything else is for the only input."""
    shown = {name: _shown(aux) for name, (_, aux) in encoders.sources.items()}
    needs = "; ".join(shown.values()) or "no input"
    if prompts is None:
        raise OptionError(f"prompts is None: {model.name} has an encoder, which needs a source to read: {needs}")
    internal = {aux.name for stage in encoders for aux in stage.auxiliary_inputs}
    given = named_values("prompts", prompts, f"the encoder of {model.name}", shown, others=internal)
    if computed := [name for name in given if name not in shown]:
        raise OptionError(f"prompts: {computed[0]!r} is computed from the sources; leave it out and pass {needs}")
    if missing := [name for name in shown if name not in given]:
        raise OptionError(f"prompts: the encoder needs {missing[0]!r} too; pass a dict with {needs}")
    return given


def _shown(aux: AuxiliaryInput) -> str:
    return f"{aux.name} {aux.dtype}[{', '.join(['batch', *('any' if s is None else str(s) for s in aux.sizes)])}]"


class _Reader:
    """Reads the sources of one encoder input.

    Args:
        level: how deep turns are nested: 0 where a source is one sequence (or one array).
    """

    def __init__(self, model: Model, stage: Encoder, aux: AuxiliaryInput, level: int) -> None:
        self._model, self._stage, self._input, self._level = model, stage, aux, level
        self._takes_ids = aux.name in stage.ids

    def read(self, values: Any, name: str, first: int, single: bool) -> list[Any]:
        """Return all sources; one alone is a list of one."""
        if not self._takes_ids and len(self._input.sizes) == 2:
            values = self._one_hot(values, name)
        depth, rank = _depth(values), len(self._input.sizes)
        if not single and depth == rank + self._level + 1:
            if not len(values):
                raise OptionError(f"{name} is empty; pass at least one source")
            return [self._one(value, f"{name}[{i}]", self._level) for i, value in enumerate(values, first)]
        called = f"{name}[{first}]" if single else name
        if not rank <= depth <= rank + self._level:
            wanted = "a string, ids" if self._takes_ids and rank == 1 else f"an array of {rank} dimensions"
            turns = ", or a list of these, one a turn" if self._level else ""
            raise OptionError(
                f"{called}: {_kind(values)}, nested {depth} deep: expected {wanted}{turns}"
                + ("" if single else ", or a list of sources")
            )
        for _ in range(rank + self._level - depth):
            values = [values]  # one turn alone
        return [self._one(values, called, self._level)]

    def _one(self, value: Any, name: str, level: int) -> Any:
        if level:
            if isinstance(value, str) or not len(value):
                raise OptionError(f"{name}: {shown(value)}: expected a list of turns, at least one")
            return [self._one(turn, f"{name}[{i}]", level - 1) for i, turn in enumerate(value)]
        return self._ids(value, name) if self._takes_ids else self._numbers(value, name)

    def _ids(self, value: Any, name: str) -> Array:
        if isinstance(value, str):
            value = self._encode(value, name)
        array = self._array(value, name)
        if array.dtype.kind not in "iu" and array.size:
            raise OptionError(f"{name}: {array.dtype} of shape {list(array.shape)}; expected whole-number ids")
        limit = self._stage.ids[self._input.name]
        wrong = (array < 0) | (array >= limit) if limit else array < 0
        if wrong.any():
            ids = f"the encoder's ids go from 0 to {limit - 1}" if limit else "ids are whole numbers from 0 on"
            raise OptionError(f"{name}: id {array[wrong].flat[0]} is out of range; {ids}")
        return self._shaped(array.astype(self._input.dtype), name)

    def _one_hot(self, value: Any, name: str) -> Any:
        """Return texts as the vectors [T, vocabulary] that the encoder takes instead of ids; anything else as it is."""
        if isinstance(value, str):
            ids, width = self._encode(value, name), self._input.sizes[-1]
            if width is None or max(ids, default=0) >= width:
                raise OptionError(
                    f"{name}: the encoder's input {self._input.name} takes vectors of {width} numbers, too few for the ids of {shown(value)} as one-hot vectors"
                )
            return np.eye(width, dtype=self._input.dtype)[ids]
        return [self._one_hot(one, name) for one in value] if isinstance(value, list | tuple) else value

    def _encode(self, text: str, name: str) -> list[int]:
        """Return the ids of a text, between the encoder's own BOS and EOS where its file has them."""
        tokenizer = self._stage.tokenizer
        if tokenizer is None:
            raise OptionError(
                f"{name}: the encoder {self._stage.name} has no vocabulary, so a text cannot be read; pass ids, or load(..., encoder_tokenizer=...)"
            )
        return [*self._stage.bos, *tokenizer.encode(text), *self._stage.eos]

    def _numbers(self, value: Any, name: str) -> Array:
        array = self._array(value, name)
        if array.dtype.kind not in "biuf":
            raise OptionError(
                f"{name}: {_kind(value)}: expected {self._input.dtype} numbers for the encoder's input {self._input.name}"
            )
        return self._shaped(array.astype(self._input.dtype), name)

    def _array(self, value: Any, name: str) -> Array:
        """Return lists as an array; numbers are checked by the callers."""
        try:
            return np.asarray(value)
        except ValueError as error:
            raise OptionError(f"{name}: no array of {len(self._input.sizes)} dimensions: {error}") from error

    def _shaped(self, array: Array, name: str) -> Array:
        aux = self._input
        if array.size == 0:
            raise OptionError(f"{name} is empty: there is nothing to encode")
        if array.ndim != len(aux.sizes):
            raise OptionError(
                f"{name}: shape {list(array.shape)}: the encoder's input {aux.name} takes {len(aux.sizes)} dimensions a source"
            )
        for axis, (found, size) in enumerate(zip(array.shape, aux.sizes, strict=True)):
            if size is None or found == size or (axis == aux.source_axis and found < size):
                continue
            most = "at most" if axis == aux.source_axis else "exactly"
            raise OptionError(
                f"{name}: {found} long on axis {axis}, but {self._stage.name} takes {most} {size} there ({aux.name}); "
                "give a source of that size, or export the encoder with a dynamic axis"
            )
        return array


def _depth(value: Any) -> int:
    """Return how deep lists are nested; a string is a sequence, one deep."""
    if isinstance(value, str):
        return 1
    if hasattr(value, "__array__"):
        return int(np.ndim(value))
    if isinstance(value, Sequence):
        return 1 + (_depth(value[0]) if len(value) else 0)
    return 0


def _kind(value: Any) -> str:
    return f"an array of shape {list(np.shape(value))}" if hasattr(value, "__array__") else type(value).__name__
