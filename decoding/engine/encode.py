"""Reading sources: encoders run for prompts as they are admitted, a few at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from decoding.engine.request import Request
from decoding.errors import OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import shape_of
from decoding.model.graph.types import Array
from decoding.model.model import Model

# Sources read ahead of the places that are free: it bounds the memory of an endless list of prompts.
_AHEAD = 32

Rows = Iterator[tuple[int, Request]]


def encoded_rows(model: Model, rows: Rows, size: int) -> Rows:
    """The rows with what the encoders give for their sources, each source encoded once however many rows it has.

    Args:
        size: rows that run together; as many sources, and at most `_AHEAD`, are encoded together.
    """
    last: list[Request] = []  # the rows of a prompt may stand on both sides of a piece's end
    while piece := list(itertools.islice(rows, min(size, _AHEAD))):
        done = {p.index: p for p in last}
        new = list({p.index: p for _, p in piece if p.index not in done}.values())
        done |= {p.index: p for p in encoded(model, new)}
        last = [done[piece[-1][1].index]]
        yield from ((sequence, done[p.index]) for sequence, p in piece)


def encoded(model: Model, prompts: Sequence[Request]) -> list[Request]:
    """The prompts with what the encoders give for their sources.

    Raises:
        OptionError: a source gives a context of a size that the decoder does not take.
    """
    todo = [p for p in prompts if p.source or p.latents]  # the prefixes of a rollout bring along what was encoded
    if model.encoders is None or not todo:
        return list(prompts)
    auxiliary_inputs = {f.name: f for f in model.contract.all_auxiliary_inputs if f.of_rows}
    results = dict(
        zip((p.index for p in todo), model.encoders.run([{**p.source, **p.latents} for p in todo]), strict=True)
    )
    found = []
    for prompt in prompts:
        given = results.get(prompt.index, {})
        context = {
            name: _checked(auxiliary_inputs[name], value, prompt.index)
            for name, value in given.items()
            if name in auxiliary_inputs
        }
        states = {name: value for name, value in given.items() if name not in auxiliary_inputs}
        found.append(replace(prompt, context={**prompt.context, **context}, states={**states, **prompt.states}))
    return found


def _checked(aux: AuxiliaryInput, value: Array, prompt: int) -> Array:
    for axis, (found, size) in enumerate(zip(value.shape, aux.sizes, strict=False)):
        if size is not None and found != size and not (axis == aux.source_axis and found < size):
            raise OptionError(
                f"prompts[{prompt}]: its source gives {found} positions of the context {aux.name!r}, the decoder takes {size}; "
                "give a source of that length, or export the decoder with a dynamic source axis"
            )
    return value


def alike(contract: Contract, prompts: Iterable[Request], ahead: int) -> Iterator[Iterable[Request]]:
    """The prompts in groups that may share a batch: all of them, unless contexts of unequal length must not be padded.

    Args:
        ahead: how many prompts of an iterable are looked at together.
    """
    varies = any(size is None for f in contract.contexts for size in f.sizes)
    if contract.pads or not varies:
        yield prompts
        return
    many = iter(prompts)
    while piece := list(itertools.islice(many, len(prompts) if isinstance(prompts, Sequence) else ahead)):
        for _, group in itertools.groupby(sorted(piece, key=_shapes), key=_shapes):
            yield list(group)


def _shapes(prompt: Request) -> Any:
    return shape_of(prompt.context), sorted((name, _shape(value)) for name, value in prompt.source.items())


def _shape(value: Any) -> tuple[int, ...]:
    """An array's shape, or those of an array for each turn one after the other."""
    return tuple(n for turn in value for n in (-1, *_shape(turn))) if isinstance(value, list) else value.shape
