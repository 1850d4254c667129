"""Contexts of unequal length padded into one batch, with the masks and lengths that tell where each ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array

Rows = Sequence[Mapping[str, Array]]


def pad_together(auxiliary_inputs: Sequence[AuxiliaryInput], rows: Rows) -> dict[str, Array]:
    """Inputs [rows, ...] by name from those of each row: padded to the longest, with masks and lengths that tell where each ends.

    Args:
        auxiliary_inputs: the inputs. One that the rows do not have is left out, unless it is the
            mask or length of one that they have; so is one with a value for each token, of which a run takes a part.
        rows: for each row its values, without a batch axis, by name.
    """
    by_name = {aux.name: aux for aux in auxiliary_inputs if aux.kind != "step_context"}
    given = set[str]().union(*rows)
    together = {name: _padded(aux, [row[name] for row in rows]) for name, aux in by_name.items() if name in given}
    for name, aux in by_name.items():
        if name not in together and aux.kind in ("source_length", "source_mask") and aux.source in together:
            axis = by_name[aux.source].source_axis or 0
            lengths = [row[aux.source].shape[axis] for row in rows]
            together[name] = aux.of_source(lengths, together[aux.source].shape[axis + 1])
    return together


def pad_to(value: Array, shape: Sequence[int], fill: float) -> Array:
    """A copy of `value` grown to `shape`, with `fill` after its end along every axis."""
    out = np.full(shape, fill, value.dtype)
    out[tuple(slice(size) for size in value.shape)] = value
    return out


def _padded(aux: AuxiliaryInput, values: Sequence[Array]) -> Array:
    shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    if aux.source_axis is not None:
        shape[aux.source_axis] = aux.sizes[aux.source_axis] or shape[aux.source_axis]
    if all(list(value.shape) == shape for value in values):
        return np.stack(values)
    return np.stack([pad_to(value, shape, aux.pad_value) for value in values])


def shape_of(row: Mapping[str, Array]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes of a row's values by name: rows of equal shapes can be run together without padding."""
    return tuple(sorted((name, value.shape) for name, value in row.items()))
