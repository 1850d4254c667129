"""Rows of unequal length put together in one array: padded, with the masks and lengths that tell where each ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array

Rows = Sequence[Mapping[str, Array]]


def pad_together(auxiliary_inputs: Sequence[AuxiliaryInput], rows: Rows) -> dict[str, Array]:
    """Inputs [rows, ...] from those of each row: padded to the longest, with masks and lengths that tell where each ends.

    Args:
        fills: the inputs; those that no row has, masks and lengths apart, are left out.
        rows: of each row, its values without a batch axis.
    """
    together = {f.name: _padded(f, [row[f.name] for row in rows]) for f in auxiliary_inputs if f.name in rows[0]}
    by_name = {f.name: f for f in auxiliary_inputs}
    for f in auxiliary_inputs:
        if f.name not in together and f.kind in ("source_length", "source_mask") and f.source in together:
            axis = by_name[f.source].source_axis or 0
            lengths = [row[f.source].shape[axis] for row in rows]
            together[f.name] = f.of_source(lengths, together[f.source].shape[axis + 1])
    return together


def pad_to(value: Array, shape: Sequence[int], aux: float) -> Array:
    """A copy of `value` with `fill` behind it along every axis, up to `shape`."""
    out = np.full(shape, aux, value.dtype)
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
    """What two rows must share to be run together without padding."""
    return tuple(sorted((name, value.shape) for name, value in row.items()))
