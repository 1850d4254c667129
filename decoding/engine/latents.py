"""The latents of sequences: drawn by the keyed generator, or given by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from decoding.errors import DecodeError
from decoding.model.contract.draws import draw
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array


@dataclass
class Latents:
    """The latents of all sequences of a call.

    A number depends on the seed, the sequence, the latent's rank among the model's latents, and, where it is drawn anew at
    every step, the position of the token that is fed: not on the batch, and on no draw of a token.

    Attributes:
        auxiliary_inputs: those of the encoders, then those of the decoder; inputs of one name take the same numbers.
        given: the caller's values, one for each sequence (one for each prompt where its outputs share them).
    """

    auxiliary_inputs: Sequence[AuxiliaryInput]
    seed: int
    given: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    _lengths: dict[int, int] = field(default_factory=dict)

    @property
    def every_step(self) -> bool:
        """Whether one of the latents is drawn anew at every step."""
        return any(f.draw.every == "step" for f in self.auxiliary_inputs)

    def start(self, sequence: int, prompt_length: int) -> dict[str, Array]:
        """Return the values that are drawn once a sequence, and keep the length of its prompt for `of`."""
        if self.every_step:
            self._lengths[sequence] = prompt_length
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
        positions = self._lengths.get(sequence, 1) - 1 + steps
        for aux in self.auxiliary_inputs:
            if aux.draw.every == "sequence":
                values[aux.name] = self._once(aux, sequence)
            else:
                values[aux.name] = self._at(aux, np.full(positions, sequence), np.arange(positions))
        return values if len(values) > 1 else next(iter(values.values()))

    def forget(self, sequences: Sequence[int]) -> None:
        """Drop what was kept for sequences that are finished."""
        for sequence in sequences:
            self._lengths.pop(sequence, None)

    def _once(self, aux: AuxiliaryInput, sequence: int) -> Array:
        if aux.name in self.given:
            return self.given[aux.name][sequence]
        (value,) = draw(self.auxiliary_inputs, aux.name, self.seed, np.array([sequence]), 0)
        return np.asarray(value)

    def _at(self, aux: AuxiliaryInput, sequences: Array, positions: Array) -> Array:
        if aux.name not in self.given:
            return draw(self.auxiliary_inputs, aux.name, self.seed, sequences, positions)
        values = [self.given[aux.name][int(sequence)] for sequence in sequences]
        for sequence, value, position in zip(sequences, values, positions, strict=True):
            if position >= len(value):
                raise DecodeError(
                    f"sequence {sequence}: latents[{aux.name!r}] has {len(value)} steps, but there is another; give more, or a smaller max_new_tokens",
                    row=int(sequence),
                    step=int(position),
                )
        taken: Array = np.stack([value[position] for value, position in zip(values, positions, strict=True)])
        return taken
