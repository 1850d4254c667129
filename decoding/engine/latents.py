"""Latents: drawn for each sequence by the keyed generator, or given by the caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from decoding.engine.request import Request
from decoding.errors import DecodeError
from decoding.model.contract.draws import draw
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array


@dataclass
class Latents:
    """The latents of all sequences of a job.

    A number depends on the seed, the sequence, the latent's place among the model's latents, and, where it is drawn anew at every
    step, the position of the token that is fed: not on the batch, and on no draw of a token.

    Attributes:
        fills: those of the encoders, then those of the decoder; inputs of one name take the same numbers.
        given: the caller's, one for each sequence (one for each prompt where a search's hypotheses share it).
    """

    auxiliary_inputs: Sequence[AuxiliaryInput]
    seed: int
    given: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    _lengths: dict[int, int] = field(default_factory=dict)

    def rows(
        self, rows: Iterator[tuple[int, Request]], decoder: Sequence[AuxiliaryInput]
    ) -> Iterator[tuple[int, Request]]:
        """Give each row the latents of its sequence, which makes it a prompt of its own.

        Args:
            decoder: the latents that the decoder takes.
        """
        own = {f.name for f in decoder}
        steps = any(f.draw.every == "step" for f in self.auxiliary_inputs)
        for sequence, prompt in rows:
            values = {f.name: self._once(f, sequence) for f in self.auxiliary_inputs if f.draw.every == "sequence"}
            context = {name: value for name, value in values.items() if name in own}
            if steps:
                self._lengths[sequence] = len(prompt.ids)
            yield (
                sequence,
                replace(
                    prompt,
                    index=sequence,
                    context={**prompt.context, **context},
                    latents=values,
                    draws=self if steps else None,
                ),
            )

    def steps(
        self, auxiliary_inputs: Sequence[AuxiliaryInput], keys: Array, starts: Array, count: int
    ) -> dict[str, Array]:
        """Of the latents that are drawn anew at every step, the values of `count` positions from `starts` on.

        Returns:
            [rows, count, ...] for an input with a time axis; else, where count is 1, [rows, ...].
        """
        found = {}
        for aux in (f for f in auxiliary_inputs if f.kind == "latent" and f.draw.every == "step"):
            values = np.stack([self._at(aux, keys, starts + i) for i in range(count)], axis=1)
            found[aux.name] = values if aux.timed else values[:, 0]
        return found

    def of(self, sequence: int, steps: int) -> Array | dict[str, Array]:
        """The latents of a finished sequence of so many steps, as `latents=` takes them: an array, or a dict of several."""
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

    def _once(self, aux: AuxiliaryInput, key: int) -> Array:
        if aux.name in self.given:
            return self.given[aux.name][key]
        (value,) = draw(self.auxiliary_inputs, aux.name, self.seed, np.array([key]), 0)
        return np.asarray(value)

    def _at(self, aux: AuxiliaryInput, keys: Array, positions: Array) -> Array:
        if aux.name not in self.given:
            return draw(self.auxiliary_inputs, aux.name, self.seed, keys, positions)
        values = [self.given[aux.name][int(key)] for key in keys]
        for key, value, position in zip(keys, values, positions, strict=True):
            if position >= len(value):
                raise DecodeError(
                    f"sequence {key}: latents[{aux.name!r}] has {len(value)} steps, but there is another; give more, or a smaller max_new_tokens",
                    row=int(key),
                    step=int(position),
                )
        taken: Array = np.stack([value[position] for value, position in zip(values, positions, strict=True)])
        return taken
