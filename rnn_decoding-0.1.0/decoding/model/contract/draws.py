"""The numbers of latents, drawn by the keyed generator of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from decoding import kernels
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array


def draw(
    auxiliary_inputs: Sequence[AuxiliaryInput], name: str, seed: Array | int, rows: Array, steps: Array | int
) -> Array:
    """Numbers [rows, ...] of the latent `name`, one of `auxiliary_inputs`.

    They depend on the seed, the row, the step and the latent's position in `auxiliary_inputs` alone.
    """
    index = [aux.name for aux in auxiliary_inputs].index(name)
    aux = auxiliary_inputs[index]
    before = [prod(one_value(other)) for other in auxiliary_inputs[:index]]
    start = sum(size + size % 2 for size in before)  # normal numbers come in pairs
    make = kernels.normal if aux.draw.distribution == "normal" else kernels.uniform
    sizes = one_value(aux)
    numbers = make(seed, rows, steps, start + prod(sizes), "latent")[:, start:]
    values: Array = numbers.reshape(len(rows), *sizes).astype(aux.dtype)
    return values


def one_value(aux: AuxiliaryInput) -> tuple[int, ...]:
    """Sizes of one value of a latent."""
    return tuple(int(size or 1) for size in (aux.sizes[1:] if aux.timed else aux.sizes))
