"""Completes requests as they are taken from the queue: draws their latents, encodes their sources, limits their lengths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from decoding.engine.latents import Latents
from decoding.engine.request import EngineRequest, Row
from decoding.errors import OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import shape_of
from decoding.model.graph.types import Array
from decoding.model.network import Network

# Sources that are encoded before a slot is free: it bounds the memory of an endless list of prompts.
_AHEAD = 32


def with_latents_of(latents: Latents | None, rows: Iterable[Row], contract: Contract) -> Iterator[Row]:
    """Yield the rows with the latents of their sequences; unchanged where there are none."""
    if latents is None:
        yield from rows
        return
    decoder = {f.name for f in contract.latents}
    for sequence, request in rows:
        values = latents.start(sequence, request)
        context = {name: value for name, value in values.items() if name in decoder}
        context = {**request.context, **context}
        yield sequence, replace(request, sequence=sequence, context=context, latents=values)


def completed_rows(
    complete: Callable[[Sequence[EngineRequest]], list[EngineRequest]], rows: Iterator[Row], size: int
) -> Iterator[Row]:
    """Yield the rows with their requests completed, each request once however many rows it has.

    Args:
        complete: encodes the sources of requests, say.
        size: rows that run together; that many requests, and at most `_AHEAD`, are completed together.
    """
    last: list[EngineRequest] = []  # the rows of a request may lie on both sides of the end of a chunk
    while chunk := list(itertools.islice(rows, min(size, _AHEAD))):
        done = {r.key: r for r in last}
        new = list({r.key: r for _, r in chunk if r.key not in done}.values())
        done |= {r.key: r for r in complete(new)}
        last = [done[chunk[-1][1].key]]
        yield from ((sequence, done[r.key]) for sequence, r in chunk)


def encoded(network: Network, requests: Sequence[EngineRequest]) -> list[EngineRequest]:
    """Return the requests with their sources encoded: as contexts and initial states.

    Raises:
        OptionError: a source gives a context of a size that the decoder does not take.
    """
    todo = [r for r in requests if (r.source or r.latents) and not r.encoded]
    if network.encoders is None or not todo:
        return list(requests)
    auxiliary_inputs = {f.name: f for f in network.contract.all_auxiliary_inputs if f.of_rows}
    results = dict(
        zip((r.key for r in todo), network.encoders.run([{**r.source, **r.latents} for r in todo]), strict=True)
    )
    found = []
    for request in requests:
        given = results.get(request.key, {})
        context = {
            name: _checked(auxiliary_inputs[name], value, request.index)
            for name, value in given.items()
            if name in auxiliary_inputs
        }
        states = {name: value for name, value in given.items() if name not in auxiliary_inputs}
        states = {**states, **request.states}
        found.append(replace(request, context={**request.context, **context}, states=states, encoded=True))
    return found


def limited_rows(contract: Contract, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows, each ending with the last token that the model takes.

    Raises:
        OptionError: a prompt is longer than that.
    """
    for sequence, request in rows:
        most = tokens_taken(contract, request, request.longest)
        if most is not None:
            new = most - request.longest + 1
            own = request.max_new_tokens
            request = replace(request, max_new_tokens=new if own is None else min(own, new))
        yield sequence, request


def tokens_taken(contract: Contract, request: EngineRequest, needed: int) -> int | None:
    """Return how many tokens of a request the model takes: as many as there are values of every step context, and as the
    graph allows. None for any number.

    Raises:
        OptionError: fewer than `needed`.
    """
    if contract.longest is not None and contract.longest < needed:
        raise OptionError(
            f"prompts[{request.index}]: {needed} tokens with BOS, but the model takes at most {contract.longest}; Model.describe() says why; pass fewer"
        )
    lengths = {f.name: len(request.context[f.name]) for f in contract.step_contexts if f.name in request.context}
    for name, length in lengths.items():
        if length < needed:
            raise OptionError(
                f"prompts[{request.index}]: its context {name!r} has values for {length} tokens, and {needed} are read (BOS counts); give a value for each token"
            )
    limits = [*lengths.values(), *([] if contract.longest is None else [contract.longest])]
    return min(limits, default=None)


def _checked(aux: AuxiliaryInput, value: Array, index: int) -> Array:
    for axis, (found, size) in enumerate(zip(value.shape, aux.sizes, strict=False)):
        if size is not None and found != size and not (axis == aux.source_axis and found < size):
            raise OptionError(
                f"prompts[{index}]: its source gives {found} positions of the context {aux.name!r}, the decoder takes {size}; "
                "give a source of that length, or export the decoder with a dynamic source axis"
            )
    return value


def alike(contract: Contract, requests: Iterable[EngineRequest], ahead: int) -> Iterator[Iterable[EngineRequest]]:
    """Yield the requests in groups that may share a batch: all of them, unless contexts of unequal length must not be padded.

    Args:
        ahead: how many requests of an iterable are looked at together.
    """
    if shares_a_batch(contract):
        yield requests
        return
    many = iter(requests)
    while chunk := list(itertools.islice(many, len(requests) if isinstance(requests, Sequence) else ahead)):
        shapes = partial(_shapes, contract)
        for _, group in itertools.groupby(sorted(chunk, key=shapes), key=shapes):
            yield list(group)


def shares_a_batch(contract: Contract) -> bool:
    """Return whether requests with contexts of unequal length may share a batch: whether padding does not change the answer."""
    return contract.pads or not any(size is None for f in contract.contexts for size in f.sizes)


def context_shapes(contract: Contract, request: EngineRequest) -> Any:
    """Return the shapes of a request's contexts, equal where requests can share a batch without padding."""
    return shape_of({f.name: request.context[f.name] for f in contract.contexts if f.name in request.context})


def _shapes(contract: Contract, request: EngineRequest) -> Any:
    return context_shapes(contract, request), sorted((name, _shape(value)) for name, value in request.source.items())


def _shape(value: Any) -> tuple[int, ...]:
    """Return an array's shape, or those of an array for each turn one after the other."""
    return tuple(n for turn in value for n in (-1, *_shape(turn))) if isinstance(value, list) else value.shape
