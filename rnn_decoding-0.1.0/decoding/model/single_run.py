"""The inputs of one plain run of a graph: given by the caller, drawn, or computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding.arguments import named_values, numbers, seed_of
from decoding.errors import OptionError, whole_number
from decoding.model.contract.contract import Contract
from decoding.model.contract.draws import draw
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array


def checked_inputs(name: str, dtypes: Mapping[str, np.dtype[Any]], inputs: Any) -> dict[str, Array]:
    """Return the caller's arrays in the inputs' dtypes.

    Args:
        name: the model.
        inputs: {input: array}, or the array alone where there is one input.

    Raises:
        OptionError: an input is unknown, or holds no numbers.
    """
    given = named_values("inputs", inputs, name, {key: key for key in dtypes})
    return {key: numbers(f"inputs[{key!r}]", value, dtypes[key]) for key, value in given.items()}


def count_rows(given: Mapping[str, Array], batch_size: int | None) -> int:
    """Return the rows of a run: those of the inputs [batch, ...], else `batch_size`, else one.

    Raises:
        OptionError: they disagree.
    """
    counts = {name: len(value) for name, value in given.items() if value.ndim}
    if batch_size is not None:
        counts["batch_size"] = whole_number("batch_size", batch_size, 1)
    if len(set(counts.values())) > 1:
        raise OptionError(f"inputs: they have different numbers of rows: {counts}")
    return next(iter(counts.values()), 1)


def drawn_latents(
    latents: Sequence[AuxiliaryInput], given: Mapping[str, Array], seed: int | None, rows: int, time: int = 1
) -> dict[str, Array]:
    """Return the latents that were not given: row i takes the numbers of sequence i."""
    key, found = seed_of(seed), {}
    for aux in latents:
        if aux.name not in given:
            steps = [draw(latents, aux.name, key, np.arange(rows), t) for t in range(time if aux.timed else 1)]
            found[aux.name] = np.stack(steps, axis=1) if aux.timed else steps[0]
    return found


def feeds_of(contract: Contract, given: Mapping[str, Array], seed: int | None, name: str) -> dict[str, Array]:
    """Return everything that a step graph takes: what the caller gives, latents to be drawn, masks, initial states.

    Raises:
        OptionError: the token or a context is missing.
    """
    c = contract
    needed = [c.token.name, *(f.name for f in (*c.contexts, *c.step_contexts))]
    if missing := [key for key in needed if key not in given]:
        raise OptionError(f"inputs: {name} needs {missing[0]!r} too; it takes {', '.join(needed)}, [batch, ...] each")
    ids = given[c.token.name].astype(np.int64)
    if not ids.ndim or not ids.size:
        raise OptionError(f"inputs[{c.token.name!r}]: shape {list(ids.shape)}: expected ids [batch] or [batch, time]")
    ids = ids.reshape(len(ids), -1)
    own = {f.name: given[f.name] for f in c.all_auxiliary_inputs if f.of_rows and f.name in given}
    count_rows({c.token.name: ids, **own}, None)
    for f in c.all_auxiliary_inputs:
        if f.kind in ("source_length", "source_mask") and f.name not in own:
            about = next(other for other in c.contexts if other.name == f.source)
            width = own[f.source].shape[1 + (about.source_axis or 0)]
            own[f.name] = f.of_source([width] * len(ids), width)
    own |= drawn_latents(c.latents, own, seed, len(ids), ids.shape[1])
    kept = {key: value for key, value in given.items() if key != c.token.name and key not in own}
    values = {key: value for key, value in own.items() if key in {f.name for f in c.auxiliary_inputs}}
    return {**c.feeds(ids, 0, values), **c.initial_states(len(ids), own), **kept}
