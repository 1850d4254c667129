"""Whether contexts of unequal length can share a batch: run padded together and apart, they must give the same results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, probe_numbers
from decoding.model.contract.pad import Rows, pad_together
from decoding.model.contract.program import StepProgram
from decoding.model.graph.types import Array

# Not in order: a graph that is right only for sources sorted by length must not pass.
_LENGTHS = (4, 7, 2)
_TOLERANCE = 1e-4
# Of the numbers that sources are probed with. Large ones saturate a softmax over the source, which hides the padding: a
# network with self-attention passed, and its scores were off by 10 nats (issue 14).
_SCALES = (1.0, 0.1)
# Tokens of each row that is probed, where a run takes several.
_TOKENS = 4


def with_padding(program: StepProgram) -> StepProgram:
    """The program, its contract told whether padding a context changes the scores, and which value of a mask is padding."""
    session, contract = program.session, program.contract
    if all(aux.source_axis is None for aux in contract.contexts):
        return program
    names = [contract.logits.name, *(s.output for s in contract.states)]
    time = (contract.window and contract.window.size) or (_TOKENS if contract.sequence else 1)
    tokens = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (1, time))

    def run(auxiliary_inputs: Sequence[AuxiliaryInput], rows: Rows) -> list[list[Array]]:
        given = pad_together(auxiliary_inputs, rows)
        given |= {f.name: np.stack([row[f.name] for row in rows]) for f in contract.step_contexts}
        ids = np.repeat(tokens, len(rows), 0)
        states = {
            s.input: s.initial_rows(len(rows), contract.width(s, given)) + s.dtype.type(0.3) for s in contract.states
        }
        stepped = {aux.name for aux in contract.auxiliary_inputs}
        feeds = {**contract.feeds(ids, 0, {name: v for name, v in given.items() if name in stepped}), **states}
        logits, *ends = session.run(feeds, names)
        if contract.initial_state_graph is not None:
            given |= pad_together(contract.initial_state_graph.auxiliary_inputs, rows)
        ends = [*ends, *contract.initial_states(len(rows), given).values()]
        after = [np.moveaxis(v, s.batch_axis, 0) for v, s in zip(ends, contract.states * 2, strict=True)]
        return [list(row) for row in zip(contract.logits.arrange(logits), *after, strict=True)]

    verified = verify_padding([aux for aux in contract.all_auxiliary_inputs if aux.of_rows], run, time=time)
    if verified is None:
        return program.with_note("contexts of unequal length are decoded apart: padding them changes the scores")
    by_name = {aux.name: aux for aux in verified}
    own = tuple(by_name.get(aux.name, aux) for aux in contract.auxiliary_inputs)
    note = "contexts of unequal length are padded: verified to change nothing"
    if inverted := [aux.name for aux in verified if aux.inverted]:
        note += f" where {', '.join(inverted)} is 0 for what is no padding"
    if wide := [s.input for s in contract.states if s.width_of]:
        note = f"contexts of unequal length are decoded apart: the states {', '.join(wide)} are as long as they are"
    return replace(program, contract=replace(contract, auxiliary_inputs=own, pads=not wide)).with_note(note)


def verify_padding(
    auxiliary_inputs: Sequence[AuxiliaryInput],
    run: Callable[[Sequence[AuxiliaryInput], Rows], list[list[Array]]],
    sample: Callable[[AuxiliaryInput, np.random.Generator, tuple[int, ...]], Array] | None = None,
    *,
    time: int = 1,
) -> Sequence[AuxiliaryInput] | None:
    """The inputs, each mask with the value of padding under which padding changes no result; None where it always does.

    Args:
        run: runs rows together and returns the results of each.
        sample: numbers to probe an input with; default normal ones.
        time: tokens of a run, for the inputs with a value for each of them.
    """
    rng = np.random.default_rng(0)
    draw = sample or (lambda aux, rng, shape: probe_numbers(rng, shape, aux.dtype))
    drawn = [
        [
            {
                aux.name: _scaled(draw(aux, rng, _probe_shape(aux, length, time)), scale)
                for aux in auxiliary_inputs
                if aux.kind in ("context", "step_context", "latent")
            }
            for length in _LENGTHS
        ]
        for scale in _SCALES
    ]
    fixed = any(f.source_axis is not None and f.sizes[f.source_axis] is not None for f in auxiliary_inputs)
    masks = [f.name for f in auxiliary_inputs if f.kind == "source_mask"]
    for meaning in product((False, True), repeat=len(masks)):
        inverted = dict(zip(masks, meaning, strict=True))
        trial = [replace(f, inverted=inverted.get(f.name, False)) for f in auxiliary_inputs]
        try:
            if all(_padding_changes_nothing(trial, rows, run, fixed) for rows in drawn):
                return trial
        except ModelError:  # a mask of a dtype or shape that the graph does not take under this meaning
            continue
    return None


def _padding_changes_nothing(
    auxiliary_inputs: Sequence[AuxiliaryInput],
    rows: Rows,
    run: Callable[[Sequence[AuxiliaryInput], Rows], list[list[Array]]],
    fixed: bool,
) -> bool:
    """Return whether rows of unequal sources give the same together as apart.

    Args:
        fixed: the file fixes the length of a source. Then nothing runs unpadded, and the padding's value must not matter.
    """
    together = run(auxiliary_inputs, rows)
    if fixed:
        apart = run([replace(f, pad_value=1) for f in auxiliary_inputs], rows)
    else:
        apart = [run(auxiliary_inputs, [row])[0] for row in rows]
    return all(_same(a, b) for one, other in zip(together, apart, strict=True) for a, b in zip(one, other, strict=True))


def _scaled(values: Array, scale: float) -> Array:
    """Floating-point numbers at another scale; ids as they are."""
    return (values * scale).astype(values.dtype) if values.dtype.kind == "f" else values


def _probe_shape(aux: AuxiliaryInput, length: int, time: int) -> tuple[int, ...]:
    if aux.timed:
        return (time, *(size or 1 for size in aux.sizes[1:]))
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
