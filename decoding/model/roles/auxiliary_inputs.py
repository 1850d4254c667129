"""What declared shapes say of the inputs that are neither token nor state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Port, Shape
from decoding.model.roles.infer import Roles


def make_auxiliary_input(ports: Mapping[str, Port], roles: Roles, name: str) -> AuxiliaryInput:
    """What the declared shape says of an input that is neither token nor state."""
    port, kind = ports[name], roles.auxiliary_inputs[name]
    behind = (port.shape or ())[1:]
    sizes: tuple[int | None, ...] = tuple(d if isinstance(d, int) else None for d in behind)
    aux = AuxiliaryInput(name, kind, port.dtype, len(port.shape or (0, 0)), source=roles.sources.get(name, ""))
    if kind == "latent":
        return replace(aux, sizes=sizes, draw=roles.draws[name])
    if aux.source:
        about = make_auxiliary_input(ports, roles, aux.source)
        fixed = None if about.source_axis is None else about.sizes[about.source_axis]
        aux = replace(aux, width=fixed or aux.width)
    if kind == "source_mask":
        return replace(aux, sizes=tuple(1 if d == 1 else None for d in behind))
    if kind == "context":
        return replace(aux, sizes=sizes, source_axis=_source_axis(ports, roles, name, sizes))
    return aux


def _source_axis(ports: Mapping[str, Port], roles: Roles, name: str, sizes: tuple[int | None, ...]) -> int | None:
    """The dimension of a context that is free, or as long as the mask that tells where it ends."""
    free = [axis for axis, size in enumerate(sizes) if size is None]
    masks = [mask for mask, context in roles.sources.items() if context == name]
    widths = {d for mask in masks for d in (ports[mask].shape or ())[1:] if isinstance(d, int) and d > 1}
    fixed = [axis for axis, size in enumerate(sizes) if size in widths]
    if not free and not fixed and masks and len(sizes) == 2:
        return 0  # [batch, source, features] with a length
    return next((found[0] for found in (free, fixed) if len(found) == 1), None)


def for_each_row(aux: AuxiliaryInput, shape: Shape) -> AuxiliaryInput:
    """A position that the whole batch shares becomes one for each row [batch, 1], as rows stand at different places.

    Where the graph cannot take that the probe fails, since its states come out in another shape.
    """
    return replace(aux, rank=2) if aux.kind == "position" and shape in ((), (1,)) else aux
