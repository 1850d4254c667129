"""Probing an encoder with small sources: which axis of each output is the batch, and which is as long as the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import Rows, pad_together
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session

# Pairs of sizes for the dynamic dimensions: images need larger ones than sequences.
_SIZES = ((7, 11), (32, 48), (64, 96), (224, 256))
# Rows of a probe: a number unlike the sizes above and usual numbers of layers.
_BATCH = 5


@dataclass(frozen=True)
class Output:
    """An output of an encoder.

    Attributes:
        batch_axis: the axis that counts rows.
        sizes: of the other dimensions; None where one depends on the source.
        follows: the index in `sizes` of the dimension that is as long as the source, padding included; None if none is.
    """

    name: str
    dtype: np.dtype[Any]
    batch_axis: int
    sizes: tuple[int | None, ...]
    follows: int | None

    def __str__(self) -> str:
        sizes: list[str] = ["?" if size is None else str(size) for size in self.sizes]
        sizes.insert(self.batch_axis, "batch")
        return f"{self.name} {self.dtype}[{', '.join(sizes)}]"


@dataclass(frozen=True)
class Probed:
    """An encoder's inputs and outputs as probing found them.

    Attributes:
        alone: a run takes one source.
        sample: random numbers or ids for an input, of a shape.
    """

    session: Session
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    outputs: tuple[Output, ...]
    alone: bool
    sample: Callable[[AuxiliaryInput, np.random.Generator, tuple[int, ...]], Array]


def probe_encoder(
    session: Session,
    names: Sequence[str],
    auxiliary_inputs: tuple[AuxiliaryInput, ...],
    ids: Mapping[str, int],
    *,
    pads: bool,
    alone: bool,
) -> Probed:
    """Probe with sources of any length if the graph takes them, else with the lengths that the file declares.

    Torch's dynamo exporter may declare the length of its example for a dimension of any length. In a file that says what its ids are
    padded with (`pads`), the declared length of ids holds, unless a mask or length tells where they end.

    Args:
        names: the outputs.
        ids: for each input that takes ids the number of ids, 0 where it is not known.
        alone: where runs of several sources fail, try one source a run.

    Raises:
        ModelError: the encoder does not run, or a source changes the outputs of another.
    """
    told = {f.source for f in auxiliary_inputs}
    dynamic = tuple(
        replace(f, sizes=(None, *f.sizes[1:]), source_axis=0)
        if f.kind == "context" and f.sizes and None not in f.sizes and (f.name in told or (f.name in ids and not pads))
        else f
        for f in auxiliary_inputs
    )
    if dynamic != auxiliary_inputs:
        try:
            return _Probe(session, names, dynamic, ids).run(alone=alone)
        except ModelError:
            pass
    return _Probe(session, names, auxiliary_inputs, ids).run(alone=alone)


@dataclass(frozen=True)
class _Probe:
    """Runs of small sources; `ids` has for each input that takes ids the number of ids, 0 where it is not known."""

    session: Session
    names: Sequence[str]
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    ids: Mapping[str, int]

    def run(self, *, alone: bool) -> Probed:
        """Run small sources of two sizes, and then with another second source; with `alone`, one source a run where that fails."""
        free = any(size is None for f in self.auxiliary_inputs for size in f.sizes if f.kind == "context")
        failure: ModelError | None = None
        for batch in (_BATCH, 1) if alone else (_BATCH,):
            for sizes in _SIZES if free else _SIZES[:1]:
                try:
                    first, second = (self._outputs(self._rows(batch, size)) for size in sizes)
                    axes = self._batch_axes(first, sizes[0]) if batch > 1 else [_first_one(v) for v in first]
                except _Mixes as error:
                    failure = error
                    break
                except ModelError as error:
                    failure = failure or error
                    continue
                outputs = tuple(
                    _output(name, axis, a, b, sizes, self.auxiliary_inputs)
                    for name, axis, a, b in zip(self.names, axes, first, second, strict=True)
                )
                return Probed(self.session, self.auxiliary_inputs, outputs, batch == 1, self.sample)
        raise failure or ModelError(self.session.name)

    def sample(self, aux: AuxiliaryInput, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Random ids or numbers for an input."""
        if aux.name not in self.ids:
            return rng.standard_normal(shape).astype(aux.dtype)
        every = np.arange(self.ids[aux.name] or 3)
        real = np.setdiff1d(every, [0, aux.pad_value])  # 0 often is padding where the file does not say
        return rng.choice(real if len(real) > 1 else every, shape).astype(aux.dtype)

    def _rows(self, batch: int, size: int, seed: int = 0) -> list[dict[str, Array]]:
        rng = np.random.default_rng(seed)
        wanted = [f for f in self.auxiliary_inputs if f.kind in ("context", "latent")]
        shapes = {f.name: tuple(size if d is None else d for d in f.sizes) for f in wanted}
        return [{f.name: self.sample(f, rng, shapes[f.name]) for f in wanted} for _ in range(batch)]

    def _outputs(self, rows: Rows) -> list[Array]:
        return self.session.run(pad_together(self.auxiliary_inputs, rows), self.names)

    def _batch_axes(self, before: Sequence[Array], size: int) -> list[int]:
        """The batch axis of each output: a change of the second source changes the output at index 1 of that axis and nowhere else."""
        rows = self._rows(_BATCH, size)
        rows[1] = self._rows(1, size, seed=1)[0]
        changed = zip(self.names, before, self._outputs(rows), strict=True)
        return [_changed_axis(self.session.name, name, a, b) for name, a, b in changed]


class _Mixes(ModelError):
    """A source changes the outputs of another."""


def _changed_axis(encoder: str, name: str, before: Array, after: Array) -> int:
    """The axis of an output along which only index 1 changed.

    Raises:
        _Mixes: there is none.
    """
    changed: Array = ~np.isclose(
        before.astype(np.float64), after.astype(np.float64), rtol=1e-4, atol=1e-5, equal_nan=True
    )
    candidates = [axis for axis, size in enumerate(before.shape) if size == _BATCH]
    for axis in candidates:
        rows: Array = np.asarray(changed.any(axis=tuple(i for i in range(changed.ndim) if i != axis)))
        if not np.delete(rows, 1).any() and (rows[1] or len(candidates) == 1):
            return axis
    if not candidates:
        raise _Mixes(
            f"{encoder}: for {_BATCH} sources the output {name} has shape {list(before.shape)}: none of its axes counts sources"
        )
    raise _Mixes(
        f"{encoder}: one source changes the output {name} of another, so sources cannot be encoded together; export it for inference"
    )


def _first_one(value: Array) -> int:
    """The first axis of size 1, as the batch axis of an output for one source."""
    if 1 not in value.shape:
        raise ModelError(f"for one source an output has shape {list(value.shape)}, of which no axis counts sources")
    return value.shape.index(1)


def _output(
    name: str, axis: int, a: Array, b: Array, sizes: tuple[int, int], auxiliary_inputs: Sequence[AuxiliaryInput]
) -> Output:
    """The output, from its values `a` and `b` for sources of two sizes."""
    shapes = [np.delete(v.shape, axis).tolist() for v in (a, b)]
    known = tuple(x if x == y else None for x, y in zip(*shapes, strict=True))
    exact = [i for i, pair in enumerate(zip(*shapes, strict=True)) if pair == sizes]
    width = next((f.sizes[f.source_axis] for f in auxiliary_inputs if f.source_axis is not None), None)
    if not exact and width is not None:
        exact = [i for i, size in enumerate(known) if size == width]
        known = tuple(None if i in exact[:1] else size for i, size in enumerate(known))
    return Output(name, a.dtype, axis, known, exact[0] if exact else None)
