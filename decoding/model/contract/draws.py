"""The numbers of latents, drawn by the keyed generator."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from decoding import kernels
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array


def draw(auxiliary_inputs: Sequence[AuxiliaryInput], name: str, seed: int, rows: Array, steps: Array | int) -> Array:
    """Numbers [rows, ...] of one of a model's latents, which depend on the seed, the row, the step and its place among them."""
    aux = next(f for f in auxiliary_inputs if f.name == name)
    start = sum(
        size + size % 2 for size in (prod(one_value(f)) for f in auxiliary_inputs[: auxiliary_inputs.index(aux)])
    )  # normal ones come in pairs
    make = kernels.normal if aux.draw.distribution == "normal" else kernels.uniform
    sizes = one_value(aux)
    numbers = make(seed, rows, steps, start + prod(sizes), "latent")[:, start:]
    values: Array = numbers.reshape(len(rows), *sizes).astype(aux.dtype)
    return values


def one_value(aux: AuxiliaryInput) -> tuple[int, ...]:
    """Sizes of one value of a latent."""
    return tuple(int(size or 1) for size in (aux.sizes[1:] if aux.timed else aux.sizes))
