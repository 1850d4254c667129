"""What an encoder reads, in every form that decode() takes, as checked arrays for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding.errors import OptionError
from decoding.inputs.prompts import Ids, encode_prompts
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.encoders.chain import Encoders
from decoding.model.encoders.encoder import Encoder
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.tokenizers import token_texts


def encode_sources(model: Model, prompts: Any, *, first: int = 0, single: bool = False) -> list[dict[str, Any]]:
    """For each prompt {encoder input: array without a batch axis}, or a list of such arrays, one a turn.

    Args:
        first: number of the first prompt in messages.
        single: `prompts` is one source, as an iterable of them gives it.

    Raises:
        OptionError: a source is of a wrong kind or shape, longer than the encoder takes, or holds an id out of range.
    """
    encoders = model.encoders
    assert encoders is not None
    inputs = encoders.sources
    if prompts is None and not inputs:
        return [{}]
    given = prompts if isinstance(prompts, Mapping) else {_only(model, encoders, prompts): prompts}
    if unknown := sorted(set(given) - set(inputs)):
        filled = any(unknown[0] in {f.name for f in stage.auxiliary_inputs} for stage in encoders)
        what = (
            f"{unknown[0]!r} is filled by decoding; leave it out"
            if filled
            else f"the encoder has no input {unknown[0]!r}"
        )
        raise OptionError(f"prompts: {what}; what is to be given is {_shown(inputs)}")
    if missing := sorted(set(inputs) - set(given)):
        raise OptionError(f"prompts: the encoder needs {missing[0]!r} too; pass a dict with {_shown(inputs)}")
    columns = {}
    for name, values in given.items():
        place, aux = inputs[name]
        called = f"prompts[{name!r}]" if isinstance(prompts, Mapping) else "prompts"
        reader = _Reader(model, encoders.stages[place], aux, encoders.levels[place])
        columns[name] = reader.read(values, called, first, single)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise OptionError(f"prompts: the inputs have different numbers of sources: {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_prompts(
    model: Model, prompts: Any, prefix: Any, *, first: int = 0, single: bool = False
) -> tuple[list[Ids], list[dict[str, Any]]]:
    """The ids that each prompt starts from, and what its encoder reads: nothing without an encoder.

    Args:
        prefix: with an encoder, the decoder's first tokens: one sequence for all prompts or one for each.

    Raises:
        OptionError: a prompt, source or prefix is wrong; the message names it.
    """
    if model.encoders is None:
        if prefix is not None:
            raise OptionError(
                f"prefix: {model.name} has no encoder: what it continues are the prompts themselves; pass them as prompts"
            )
        ids = encode_prompts(model, [prompts] if single else prompts, first=first)
        return ids, [{} for _ in ids]
    sources = encode_sources(model, prompts, first=first, single=single)
    ids = encode_prompts(model, prefix, name="prefix")
    if len(ids) not in (1, len(sources)):
        raise OptionError(
            f"prefix: found {len(ids)} of them; expected one for all prompts, or one for each of the {len(sources)}"
        )
    return ids if len(ids) == len(sources) else ids * len(sources), sources


def source_tokens(model: Model, prompts: Any) -> list[str] | None:
    """The tokens of the first source, as texts; None where no encoder reads one sequence of ids that have texts."""
    if model.encoders is None:
        return None
    values = list(encode_sources(model, prompts)[0].items())
    name, ids = values[0]
    tokenizer = model.encoders.stages[model.encoders.sources[name][0]].tokenizer or model.tokenizer
    if (
        len(values) > 1
        or tokenizer is None
        or not isinstance(ids, np.ndarray)
        or ids.ndim != 1
        or ids.dtype.kind != "i"
    ):
        return None
    return token_texts(tokenizer, ids.tolist())


def _only(model: Model, encoders: Encoders, prompts: Any) -> str:
    """The input that prompts are for where they are no dict."""
    if len(encoders.sources) != 1:
        raise OptionError(
            f"prompts: {type(prompts).__name__}: the encoder of {model.name} has the inputs {_shown(encoders.sources)}; pass a dict with an array for each"
        )
    if prompts is None:
        raise OptionError(
            f"prompts is None: {model.name} has an encoder, which needs a source to read: {_shown(encoders.sources)}"
        )
    return next(iter(encoders.sources))


def _shown(inputs: Mapping[str, tuple[int, AuxiliaryInput]]) -> str:
    return (
        "; ".join(
            f"{name} {aux.dtype}[{', '.join(['batch', *('any' if s is None else str(s) for s in aux.sizes)])}]"
            for name, (_, aux) in inputs.items()
        )
        or "no input"
    )


class _Reader:
    """Reads the sources of one input.

    Args:
        level: how deep turns are nested: 0 where a source is one sequence (or one array).
    """

    def __init__(self, model: Model, stage: Encoder, aux: AuxiliaryInput, level: int) -> None:
        self._model, self._stage, self._auxiliary_kind, self._level = model, stage, aux, level
        self._takes_ids = aux.name in stage.ids

    def read(self, values: Any, name: str, first: int, single: bool) -> list[Any]:
        """All sources, or the only one, however it is wrapped."""
        if not self._takes_ids and len(self._auxiliary_kind.sizes) == 2:
            values = self._one_hot(values, name)
        depth, rank = _depth(values), len(self._auxiliary_kind.sizes)
        if not single and depth == rank + self._level + 1:
            if not len(values):
                raise OptionError(f"{name} is empty: there is nothing to do; give at least one source")
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
                raise OptionError(f"{name}: {value!r}: expected a list of turns, at least one")
            return [self._one(turn, f"{name}[{i}]", level - 1) for i, turn in enumerate(value)]
        return self._ids(value, name) if self._takes_ids else self._numbers(value, name)

    def _ids(self, value: Any, name: str) -> Array:
        if isinstance(value, str):
            value = self._encode(value, name)
        array = self._array(value, name)
        if array.dtype.kind not in "iu" and array.size:
            raise OptionError(f"{name}: {array.dtype} of shape {list(array.shape)}; expected whole-number ids")
        limit = self._stage.ids[self._auxiliary_kind.name]
        wrong = (array < 0) | (array >= limit) if limit else array < 0
        if wrong.any():
            raise OptionError(
                f"{name}: id {array[wrong].flat[0]} is out of range; the encoder's ids go from 0 to {limit - 1 if limit else 'what its export says'}"
            )
        return self._shaped(array.astype(self._auxiliary_kind.dtype), name)

    def _one_hot(self, value: Any, name: str) -> Any:
        """Texts as the vectors [T, vocabulary] that the encoder takes instead of ids; anything else as it is."""
        if isinstance(value, str):
            ids, width = self._encode(value, name), self._auxiliary_kind.sizes[-1]
            if width is None or max(ids, default=0) >= width:
                raise OptionError(
                    f"{name}: the encoder's input {self._auxiliary_kind.name} takes vectors of {width} numbers, too few for the ids of {value!r} as one-hot vectors"
                )
            return np.eye(width, dtype=self._auxiliary_kind.dtype)[ids]
        return [self._one_hot(one, name) for one in value] if isinstance(value, list | tuple) else value

    def _encode(self, text: str, name: str) -> list[int]:
        """Ids of a text, between the encoder's own BOS and EOS where its file has them."""
        tokenizer = self._stage.tokenizer or self._model.tokenizer
        if tokenizer is None:
            raise OptionError(
                f"{name}: {self._stage.name} has no vocabulary, so a text cannot be read; pass ids, or load(..., tokenizer=...)"
            )
        return [*self._stage.bos, *tokenizer.encode(text), *self._stage.eos]

    def _numbers(self, value: Any, name: str) -> Array:
        array = self._array(value, name)
        if array.dtype.kind not in "biuf":
            raise OptionError(
                f"{name}: {_kind(value)}: expected {self._auxiliary_kind.dtype} numbers for the encoder's input {self._auxiliary_kind.name}"
            )
        return self._shaped(array.astype(self._auxiliary_kind.dtype), name)

    def _array(self, value: Any, name: str) -> Array:
        try:
            return np.asarray(value)
        except ValueError as error:
            raise OptionError(f"{name}: no array of {len(self._auxiliary_kind.sizes)} dimensions: {error}") from error

    def _shaped(self, array: Array, name: str) -> Array:
        aux = self._auxiliary_kind
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
    """How deep lists are nested; a string is a sequence, one deep."""
    if isinstance(value, str):
        return 1
    if hasattr(value, "__array__"):
        return int(np.ndim(value))
    if isinstance(value, Sequence):
        return 1 + (_depth(value[0]) if len(value) else 0)
    return 0


def _kind(value: Any) -> str:
    return f"an array of shape {list(np.shape(value))}" if hasattr(value, "__array__") else type(value).__name__
