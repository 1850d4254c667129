"""What declared shapes say of the inputs that are neither token nor state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decoding.model import rewrite
from decoding.model.contract import Fill
from decoding.model.graph import Graph
from decoding.model.ports import Port, Shape
from decoding.model.roles import Roles


def put_batch_first(graph: Graph, roles: Roles, declared: Mapping[str, Shape]) -> dict[str, Shape]:
    """Let contexts and their masks take the batch as their first axis; the shapes of those that did not."""
    called = {d for d in declared[roles.token] or () if isinstance(d, str)}
    changed: dict[str, Shape] = {}
    for name, kind in roles.fills.items():
        shape = declared[name] or ()
        named = [axis for axis, d in enumerate(shape) if d in called]
        axis = roles.batch_axis.get(name, named[0] if len(named) == 1 else 0)
        if kind in ("context", "source_mask", "latent") and axis:
            rewrite.batch_first(graph, name, axis)
            changed[name] = (shape[axis], *shape[:axis], *shape[axis + 1 :])
            roles.notes.append(f"{name} takes its batch as axis {axis}: transposed")
    return changed


def make_fill(ports: Mapping[str, Port], roles: Roles, name: str) -> Fill:
    """What the declared shape says of an input that is neither token nor state."""
    port, kind = ports[name], roles.fills[name]
    behind = (port.shape or ())[1:]
    sizes: tuple[int | None, ...] = tuple(d if isinstance(d, int) else None for d in behind)
    fill = Fill(name, kind, port.dtype, len(port.shape or (0, 0)), source=roles.sources.get(name, ""))
    if kind == "latent":
        return replace(fill, sizes=sizes, draw=roles.draws[name])
    if fill.source:
        about = make_fill(ports, roles, fill.source)
        fixed = None if about.source_axis is None else about.sizes[about.source_axis]
        fill = replace(fill, width=fixed or fill.width)
    if kind == "source_mask":
        return replace(fill, sizes=tuple(1 if d == 1 else None for d in behind))
    if kind == "context":
        return replace(fill, sizes=sizes, source_axis=_source_axis(ports, roles, name, sizes))
    return fill


def _source_axis(ports: Mapping[str, Port], roles: Roles, name: str, sizes: tuple[int | None, ...]) -> int | None:
    """The dimension of a context that is free, or as long as the mask that tells where it ends."""
    free = [axis for axis, size in enumerate(sizes) if size is None]
    masks = [mask for mask, context in roles.sources.items() if context == name]
    widths = {d for mask in masks for d in (ports[mask].shape or ())[1:] if isinstance(d, int) and d > 1}
    fixed = [axis for axis, size in enumerate(sizes) if size in widths]
    if not free and not fixed and masks and len(sizes) == 2:
        return 0  # [batch, source, features] with a length
    return next((found[0] for found in (free, fixed) if len(found) == 1), None)


def for_each_row(fill: Fill, shape: Shape) -> Fill:
    """A position that the whole batch shares becomes one for each row [batch, 1], as rows stand at different places.

    Where the graph cannot take that the probe fails, since its states come out in another shape.
    """
    return replace(fill, rank=2) if fill.kind == "position" and shape in ((), (1,)) else fill
