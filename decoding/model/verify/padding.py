"""Whether contexts of unequal length can share a batch: run padded together and apart, they must give the same results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import Rows, pad_together
from decoding.model.contract.program import StepProgram
from decoding.model.graph.types import Array

# Not in order: a graph that is right only for sources sorted by length must not pass.
_LENGTHS = (4, 7, 2)
_TOLERANCE = 1e-4


def with_padding(program: StepProgram) -> StepProgram:
    """The program, its contract told whether padding a context changes the scores, and which value of a mask is padding."""
    session, contract = program.session, program.contract
    if all(aux.source_axis is None for aux in contract.contexts):
        return program
    names = [contract.logits.name, *(s.output for s in contract.states)]

    def run(auxiliary_inputs: Sequence[AuxiliaryInput], rows: Rows) -> list[list[Array]]:
        given = pad_together(auxiliary_inputs, rows)
        ids = np.zeros((len(rows), 1), np.int64)
        states = {s.input: s.initial_rows(len(rows)) + s.dtype.type(0.3) for s in contract.states}
        stepped = {aux.name for aux in contract.auxiliary_inputs}
        feeds = {**contract.feeds(ids, 0, {name: v for name, v in given.items() if name in stepped}), **states}
        logits, *ends = session.run(feeds, names)
        if contract.initial_state_graph is not None:
            given = pad_together(contract.initial_state_graph.auxiliary_inputs, rows)
        ends = [*ends, *contract.initial_states(len(rows), given).values()]
        after = [np.moveaxis(v, s.batch_axis, 0) for v, s in zip(ends, contract.states * 2, strict=True)]
        return [list(row) for row in zip(contract.logits.arrange(logits), *after, strict=True)]

    verified = verify_padding([aux for aux in contract.all_auxiliary_inputs if aux.of_rows], run)
    if verified is None:
        return program.with_note("contexts of unequal length are decoded apart: padding them changes the scores")
    by_name = {aux.name: aux for aux in verified}
    own = tuple(by_name.get(aux.name, aux) for aux in contract.auxiliary_inputs)
    note = "contexts of unequal length are padded: verified to change nothing"
    if inverted := [aux.name for aux in verified if aux.inverted]:
        note += f" where {', '.join(inverted)} is 0 for what is no padding"
    return replace(program, contract=replace(contract, auxiliary_inputs=own, pads=True)).with_note(note)


def verify_padding(
    auxiliary_inputs: Sequence[AuxiliaryInput],
    run: Callable[[Sequence[AuxiliaryInput], Rows], list[list[Array]]],
    sample: Callable[[AuxiliaryInput, np.random.Generator, tuple[int, ...]], Array] | None = None,
) -> Sequence[AuxiliaryInput] | None:
    """The inputs, each mask with the value of padding under which padding changes no result; None where it always does.

    Args:
        run: runs rows together and returns the results of each.
        sample: numbers to probe an input with; default normal ones.
    """
    rng = np.random.default_rng(0)
    draw = sample or (lambda aux, rng, shape: rng.standard_normal(shape).astype(aux.dtype))
    rows = [
        {
            aux.name: draw(aux, rng, _probe_shape(aux, length))
            for aux in auxiliary_inputs
            if aux.kind in ("context", "latent")
        }
        for length in _LENGTHS
    ]
    fixed = any(f.source_axis is not None and f.sizes[f.source_axis] is not None for f in auxiliary_inputs)
    masks = [f.name for f in auxiliary_inputs if f.kind == "source_mask"]
    for meaning in product((False, True), repeat=len(masks)):
        inverted = dict(zip(masks, meaning, strict=True))
        trial = [replace(f, inverted=inverted.get(f.name, False)) for f in auxiliary_inputs]
        try:
            together = run(trial, rows)
            # Where the length is fixed nothing runs unpadded: then the padding's value must not matter.
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
    """Return whether two results are equal, as far as both reach along axes that follow the source."""
    if a.ndim != b.ndim:
        return False
    cut = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    a, b = a[cut].astype(np.float64), b[cut].astype(np.float64)
    scale = 1 + np.abs(a).max(initial=0)
    return bool(np.isfinite(a).all() and np.isfinite(b).all() and (np.abs(a - b) <= _TOLERANCE * scale).all())
