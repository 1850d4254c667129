"""The latents of sequences: drawn by the keyed generator, or given by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from decoding.errors import DecodeError
from decoding.model.contract.draws import draw
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array


class DrawsLatents(Protocol):
    """What latents ask of a request; see `decoding.engine.request.EngineRequest`."""

    @property
    def ids(self) -> Array: ...
    @property
    def seed(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def latent_stream(self) -> int: ...
    @property
    def given_latents(self) -> Mapping[str, Sequence[Array]]: ...


@dataclass
class Latents:
    """The latents of all sequences that run.

    A number depends on the request's seed, the number of the output, the latent's rank among the model's latents, and, where it
    is drawn anew at every step, the position of the token that is fed: not on the batch, and on no draw of a token.

    Attributes:
        families: for each model those of the encoders, then those of the decoder; inputs of one name take the same numbers. The
            members of an ensemble are drawn for as if each were alone.
    """

    families: Sequence[Sequence[AuxiliaryInput]]
    _requests: dict[int, DrawsLatents] = field(default_factory=dict)  # by sequence

    @property
    def auxiliary_inputs(self) -> list[AuxiliaryInput]:
        """The latents of all families."""
        return [aux for family in self.families for aux in family]

    @property
    def every_step(self) -> bool:
        """Whether one of the latents is drawn anew at every step."""
        return any(f.draw.every == "step" for f in self.auxiliary_inputs)

    def start(self, sequence: int, request: DrawsLatents) -> dict[str, Array]:
        """Return the values that are drawn once a sequence; the others are known from now on, until `forget`."""
        self._requests[sequence] = request
        return {f.name: self._once(f, sequence) for f in self.auxiliary_inputs if f.draw.every == "sequence"}

    def steps(
        self, auxiliary_inputs: Sequence[AuxiliaryInput], sequences: Array, starts: Array, count: int
    ) -> dict[str, Array]:
        """Return the values that are drawn anew at every step, for `count` positions from `starts` on.

        Returns:
            [rows, count, ...] for an input with a time axis; else, where count is 1, [rows, ...].
        """
        found = {}
        for aux in (f for f in auxiliary_inputs if f.kind == "latent" and f.draw.every == "step"):
            values = np.stack([self._at(aux, sequences, starts + i) for i in range(count)], axis=1)
            found[aux.name] = values if aux.timed else values[:, 0]
        return found

    def of(self, sequence: int, steps: int) -> Array | dict[str, Array]:
        """Return the latents of a finished sequence of that many steps, as `latents=` takes them: an array, or a dict of several."""
        values = {}
        positions = len(self._requests[sequence].ids) - 1 + steps
        for aux in self.auxiliary_inputs:
            if aux.draw.every == "sequence":
                values[aux.name] = self._once(aux, sequence)
            else:
                values[aux.name] = self._at(aux, np.full(positions, sequence), np.arange(positions))
        return values if len(values) > 1 else next(iter(values.values()))

    def forget(self, sequences: Sequence[int]) -> None:
        """Drop what was kept for sequences that are finished."""
        for sequence in sequences:
            self._requests.pop(sequence, None)

    def _family(self, aux: AuxiliaryInput) -> Sequence[AuxiliaryInput]:
        return next(family for family in self.families if aux.name in [one.name for one in family])

    def _once(self, aux: AuxiliaryInput, sequence: int) -> Array:
        request = self._requests[sequence]
        if aux.name in request.given_latents:
            return request.given_latents[aux.name][sequence - request.first]
        stream = np.array([request.latent_stream + sequence - request.first])
        (value,) = draw(self._family(aux), aux.name, request.seed, stream, 0)
        return np.asarray(value)

    def _at(self, aux: AuxiliaryInput, sequences: Array, positions: Array) -> Array:
        """Return one value for each of the sequences, at its position; a number without a request is a row that is idle."""
        requests = [self._requests.get(int(sequence)) for sequence in sequences]
        numbers = [0 if r is None else int(s) - r.first for s, r in zip(sequences, requests, strict=True)]
        seeds = np.array([0 if r is None else r.seed for r in requests], np.uint64)
        streams = np.array([0 if r is None else r.latent_stream + n for n, r in zip(numbers, requests, strict=True)])
        values = draw(self._family(aux), aux.name, seeds, streams, positions)
        for row, (request, number) in enumerate(zip(requests, numbers, strict=True)):
            if request is not None and aux.name in request.given_latents:
                given, position = request.given_latents[aux.name][number], int(positions[row])
                if position >= len(given):
                    raise DecodeError(
                        f"sequence {sequences[row]}: latents[{aux.name!r}] has {len(given)} steps, but decoding needs another; pass more, or a smaller max_new_tokens",
                        row=int(sequences[row]),
                        step=position,
                    )
                values[row] = given[position]
        return values
