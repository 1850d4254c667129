"""Reads the prompts that members of an ensemble have of their own, before their requests start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from decoding.engine.batch.batch import failed_step, make_batch
from decoding.engine.batch.ensemble import member_call, part
from decoding.engine.request import Call, EngineRequest
from decoding.engine.search.prefill import Prefill
from decoding.errors import ModelError
from decoding.model.ensembles.network import EnsembleNetwork
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History


def with_prefixes_read(network: Network, call: Call, requests: Sequence[EngineRequest]) -> list[EngineRequest]:
    """Return the requests, those with prompts of members' own with the states after them: they go on as after `Request(state=...)`.

    The prompts of one member are read together, in chunks.

    Raises:
        DecodeError, ModelError: a member cannot read one.
    """
    found = list(requests)
    todo = [at for at, request in enumerate(found) if request.prefixes and not request.prefixes_read]
    if not todo or not isinstance(network, EnsembleNetwork):
        return found
    after: list[dict[str, Array]] = [{} for _ in todo]
    for member in network.members:
        prompts = [part(member, replace(found[at], ids=found[at].ids[: found[at].start])) for at in todo]
        for states, own in zip(after, _read(member.network, member_call(call, member), prompts), strict=True):
            states.update({member.full(name): value for name, value in own.items()})
    for at, states in zip(todo, after, strict=True):
        found[at] = replace(found[at], states=states, read=found[at].start - 1, prefixes_read=True)
    return found


def _read(network: Network, call: Call, requests: Sequence[EngineRequest]) -> list[dict[str, Array]]:
    """Return the states of each request before the last of its ids."""
    requests = with_prefixes_read(network, call, requests)
    batch = make_batch(network, len(requests), call, reduce=False)
    batch.grow(len(requests))
    prefill = Prefill(network, batch, call)
    states: list[dict[str, Array]] = [{} for _ in requests]
    ready = prefill.admit(np.arange(len(requests)), [(i, request) for i, request in enumerate(requests)])
    try:
        while True:
            if ready:
                after = batch.states_before(np.array([row.slot for row in ready]), 0)
                for row, own in zip(ready, after, strict=True):
                    states[row.sequence] = own
            if not prefill:
                return states
            ready = prefill.read_chunk()
    except ModelError as error:
        raise failed_step(network, error, History([r.ids for r in requests], [r.ids[:0] for r in requests])) from error
