"""Sources of unequal length in one batch: padded, and told where they end; seen by running whether that changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import Rows, pad_together
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session

# Not in order: what runs sources sorted by length only must not be believed.
_LENGTHS = (4, 7, 2)
_TOLERANCE = 1e-4


def with_padding(session: Session, contract: Contract) -> Contract:
    """The contract with what running says of padded contexts: whether they change the scores, and what masks mean."""
    if all(f.source_axis is None for f in contract.contexts):
        return contract
    token = np.zeros((1, 1), np.int64)
    names = [contract.logits.name, *(s.output for s in contract.states)]

    def run(auxiliary_inputs: Sequence[AuxiliaryInput], rows: Rows) -> list[list[Array]]:
        given = pad_together(auxiliary_inputs, rows)
        ids = np.repeat(token, len(rows), axis=0)
        states = {s.input: s.start(len(rows)) + s.dtype.type(0.3) for s in contract.states}
        stepped = {f.name for f in contract.auxiliary_inputs}
        feeds = {**contract.feeds(ids, 0, {name: v for name, v in given.items() if name in stepped}), **states}
        logits, *ends = session.run(feeds, names)
        if contract.initial_state_graph is not None:
            given = pad_together(contract.initial_state_graph.auxiliary_inputs, rows)
        ends = [*ends, *contract.initial_states(len(rows), given).values()]
        after = [np.moveaxis(v, s.batch_axis, 0) for v, s in zip(ends, contract.states * 2, strict=True)]
        return [list(row) for row in zip(contract.logits.arrange(logits), *after, strict=True)]

    auxiliary_inputs = verify_padding([f for f in contract.all_auxiliary_inputs if f.of_rows], run)
    if auxiliary_inputs is None:
        note = "contexts of unequal length are decoded apart: padding them changes the scores"
        return replace(contract, notes=(*contract.notes, note))
    changed = {f.name: f for f in auxiliary_inputs}
    note = "contexts of unequal length are padded: seen by running to change nothing"
    if inverted := [f.name for f in auxiliary_inputs if f.inverted]:
        note += f" where {', '.join(inverted)} is 0 for what is no padding"
    return replace(
        contract,
        auxiliary_inputs=tuple(changed.get(f.name, f) for f in contract.auxiliary_inputs),
        pads=True,
        notes=(*contract.notes, note),
    )


def verify_padding(
    auxiliary_inputs: Sequence[AuxiliaryInput],
    run: Callable[[Sequence[AuxiliaryInput], Rows], list[list[Array]]],
    sample: Callable[[AuxiliaryInput, np.random.Generator, tuple[int, ...]], Array] | None = None,
) -> Sequence[AuxiliaryInput] | None:
    """The inputs, masks with the meaning under which padding changes no result, or None where it does under none.

    Args:
        run: the results of each of some rows, run together.
        sample: numbers for an input to probe with; default normal ones.
    """
    rng = np.random.default_rng(0)
    draw = sample or (lambda aux, rng, shape: rng.standard_normal(shape).astype(aux.dtype))
    rows = [
        {f.name: draw(f, rng, _probe_shape(f, length)) for f in auxiliary_inputs if f.kind in ("context", "latent")}
        for length in _LENGTHS
    ]
    fixed = any(f.source_axis is not None and f.sizes[f.source_axis] is not None for f in auxiliary_inputs)
    masks = [f.name for f in auxiliary_inputs if f.kind == "source_mask"]
    for meaning in product((False, True), repeat=len(masks)):
        inverted = dict(zip(masks, meaning, strict=True))
        trial = [replace(f, inverted=inverted.get(f.name, False)) for f in auxiliary_inputs]
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


def _probe_shape(aux: AuxiliaryInput, length: int) -> tuple[int, ...]:
    if aux.timed:
        return (1, *(size or 1 for size in aux.sizes[1:]))
    along = [length if axis == aux.source_axis else size or 4 for axis, size in enumerate(aux.sizes)]
    if aux.source_axis is not None and (width := aux.sizes[aux.source_axis]) is not None:
        along[aux.source_axis] = min(length, width)
    return tuple(along)


def _same(a: Array, b: Array) -> bool:
    """Are two results equal, as far as both reach along axes that follow the source?"""
    if a.ndim != b.ndim:
        return False
    cut = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    a, b = a[cut].astype(np.float64), b[cut].astype(np.float64)
    scale = 1 + np.abs(a).max(initial=0)
    return bool(np.isfinite(a).all() and np.isfinite(b).all() and (np.abs(a - b) <= _TOLERANCE * scale).all())
