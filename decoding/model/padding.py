"""Sources of unequal length in one batch: padded, and told where they end; seen by running whether that changes anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract import Contract, Fill
from decoding.model.ports import Array
from decoding.model.session import Session

# Not in order: what runs sources sorted by length only must not be believed.
_LENGTHS = (4, 7, 2)
_TOLERANCE = 1e-4

Rows = Sequence[Mapping[str, Array]]


def pad_together(fills: Sequence[Fill], rows: Rows) -> dict[str, Array]:
    """Inputs [rows, ...] from those of each row: padded to the longest, with masks and lengths that tell where each ends.

    Args:
        fills: the inputs; those that no row has, masks and lengths apart, are left out.
        rows: of each row, its values without a batch axis.
    """
    together = {f.name: _padded(f, [row[f.name] for row in rows]) for f in fills if f.name in rows[0]}
    by_name = {f.name: f for f in fills}
    for f in fills:
        if f.name not in together and f.kind in ("source_length", "source_mask") and f.source in together:
            axis = by_name[f.source].source_axis or 0
            lengths = [row[f.source].shape[axis] for row in rows]
            together[f.name] = f.of_source(lengths, together[f.source].shape[axis + 1])
    return together


def pad_to(value: Array, shape: Sequence[int], fill: float) -> Array:
    """A copy of `value` with `fill` behind it along every axis, up to `shape`."""
    out = np.full(shape, fill, value.dtype)
    out[tuple(slice(size) for size in value.shape)] = value
    return out


def _padded(fill: Fill, values: Sequence[Array]) -> Array:
    shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    if fill.source_axis is not None:
        shape[fill.source_axis] = fill.sizes[fill.source_axis] or shape[fill.source_axis]
    if all(list(value.shape) == shape for value in values):
        return np.stack(values)
    return np.stack([pad_to(value, shape, fill.pad_value) for value in values])


def shape_of(row: Mapping[str, Array]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What two rows must share to be run together without padding."""
    return tuple(sorted((name, value.shape) for name, value in row.items()))


def with_padding(session: Session, contract: Contract) -> Contract:
    """The contract with what running says of padded contexts: whether they change the scores, and what masks mean."""
    if all(f.source_axis is None for f in contract.contexts):
        return contract
    token = np.zeros((1, 1), np.int64)
    names = [contract.logits.name, *(s.output for s in contract.states)]

    def run(fills: Sequence[Fill], rows: Rows) -> list[list[Array]]:
        given = pad_together(fills, rows)
        ids = np.repeat(token, len(rows), axis=0)
        states = {s.input: s.start(len(rows)) + s.dtype.type(0.3) for s in contract.states}
        stepped = {f.name for f in contract.fills}
        feeds = {**contract.feeds(ids, 0, {name: v for name, v in given.items() if name in stepped}), **states}
        logits, *ends = session.run(feeds, names)
        if contract.starter is not None:
            given = pad_together(contract.starter.fills, rows)
        ends = [*ends, *contract.first_states(len(rows), given).values()]
        after = [np.moveaxis(v, s.batch_axis, 0) for v, s in zip(ends, contract.states * 2, strict=True)]
        return [list(row) for row in zip(contract.logits.arrange(logits), *after, strict=True)]

    fills = prove_padding([f for f in contract.every_fill if f.of_rows], run)
    if fills is None:
        note = "contexts of unequal length are decoded apart: padding them changes the scores"
        return replace(contract, notes=(*contract.notes, note))
    changed = {f.name: f for f in fills}
    note = "contexts of unequal length are padded: seen by running to change nothing"
    if inverted := [f.name for f in fills if f.inverted]:
        note += f" where {', '.join(inverted)} is 0 for what is no padding"
    return replace(
        contract, fills=tuple(changed.get(f.name, f) for f in contract.fills), pads=True, notes=(*contract.notes, note)
    )


def prove_padding(
    fills: Sequence[Fill],
    run: Callable[[Sequence[Fill], Rows], list[list[Array]]],
    sample: Callable[[Fill, np.random.Generator, tuple[int, ...]], Array] | None = None,
) -> Sequence[Fill] | None:
    """The inputs, masks with the meaning under which padding changes no result, or None where it does under none.

    Args:
        run: the results of each of some rows, run together.
        sample: numbers for an input to probe with; default normal ones.
    """
    rng = np.random.default_rng(0)
    draw = sample or (lambda fill, rng, shape: rng.standard_normal(shape).astype(fill.dtype))
    rows = [
        {f.name: draw(f, rng, _probe_shape(f, length)) for f in fills if f.kind in ("context", "latent")}
        for length in _LENGTHS
    ]
    fixed = any(f.source_axis is not None and f.sizes[f.source_axis] is not None for f in fills)
    masks = [f.name for f in fills if f.kind == "source_mask"]
    for meaning in product((False, True), repeat=len(masks)):
        inverted = dict(zip(masks, meaning, strict=True))
        trial = [replace(f, inverted=inverted.get(f.name, False)) for f in fills]
        try:
            together = run(trial, rows)
            # Where the length is fixed nothing can be run unpadded: then what the padding holds must not matter.
            apart = (
                run([replace(f, pad_value=1) for f in trial], rows) if fixed else [run(trial, [row])[0] for row in rows]
            )
        except ModelError:  # a mask of a dtype or shape that the graph does not take under this meaning
            continue
        if all(
            _same(a, b) for one, other in zip(together, apart, strict=True) for a, b in zip(one, other, strict=True)
        ):
            return trial
    return None


def _probe_shape(fill: Fill, length: int) -> tuple[int, ...]:
    if fill.timed:
        return (1, *(size or 1 for size in fill.sizes[1:]))
    along = [length if axis == fill.source_axis else size or 4 for axis, size in enumerate(fill.sizes)]
    if fill.source_axis is not None and (width := fill.sizes[fill.source_axis]) is not None:
        along[fill.source_axis] = min(length, width)
    return tuple(along)


def _same(a: Array, b: Array) -> bool:
    """Are two results equal, as far as both reach along axes that follow the source?"""
    if a.ndim != b.ndim:
        return False
    cut = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    a, b = a[cut].astype(np.float64), b[cut].astype(np.float64)
    scale = 1 + np.abs(a).max(initial=0)
    return bool(np.isfinite(a).all() and np.isfinite(b).all() and (np.abs(a - b) <= _TOLERANCE * scale).all())
