"""Inputs that are neither token nor state: the kind of each, and what its declared shape says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, AuxiliaryKind, Draw
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Port, Shape
from decoding.model.roles.given import names_in
from decoding.model.roles.masks import find_kind, find_sources, kind_evidence

# The values of an input that follows the tokens.
_VALUES: dict[AuxiliaryKind, str] = {
    "mask": "ones: no token is padding",
    "position": "the token's position",
    "length": "the number of tokens",
}


def find_kinds(
    graph: Graph,
    given: Mapping[str, Any],
    ports: Iterable[Port],
    token: str,
    draws: Mapping[str, Draw],
    notes: list[str],
) -> tuple[dict[str, AuxiliaryKind], dict[str, str]]:
    """The kind of each of a decoder's inputs that are neither token nor state, and the context of each source mask and length.

    Raises:
        ModelError: no kind fits an input.
    """
    kinds: dict[str, AuxiliaryKind] = {}
    for port in ports:
        kind = "latent" if port.name in draws else find_kind(graph, port, given)
        if kind is None:
            if port.name not in names_in(given.get("context")) and not (port.dtype.kind == "f" and port.shape):
                raise ModelError(
                    f"{graph.name}: nobody feeds the input {port}: it is no token, and no output has its dtype and shape and depends on it, so it is no recurrent state. "
                    f"Pass roles={{'constant': {{{port.name!r}: value}}}} for a fixed value, roles={{'context': [{port.name!r}]}} for one that decode() is given, roles={{'source_length': {port.name!r}}} or roles={{'source_mask': {port.name!r}}} for one that tells where a context ends, or roles={{'state': {{{port.name!r}: output}}}}"
                )
            kind = "context"
        kinds[port.name] = kind
    sources = find_sources(graph, given, token, kinds, notes)
    for name, kind in kinds.items():
        if kind in _VALUES:
            notes.append(f"{name} is filled with {_VALUES[kind]}: {kind_evidence(graph, name)}")
        elif kind == "context":
            notes.append(
                f"{name} is a context, given by the caller: neither token nor state nor anything that decoding fills"
            )
    return kinds, sources


def make_auxiliary_inputs(
    ports: Sequence[Port], kinds: Mapping[str, AuxiliaryKind], sources: Mapping[str, str], draws: Mapping[str, Draw]
) -> tuple[AuxiliaryInput, ...]:
    """The auxiliary inputs of these kinds, with the sizes that their ports declare."""
    by_name = {port.name: port for port in ports}
    made = {name: _make(by_name, name, kind, sources, draws) for name, kind in kinds.items()}
    for name, about in sources.items():
        context = made[about]
        if context.source_axis is not None and (width := context.sizes[context.source_axis]):
            made[name] = replace(made[name], width=width)
    return tuple(made.values())


def for_each_row(aux: AuxiliaryInput, shape: Shape) -> AuxiliaryInput:
    """The input with a value for each row [batch, 1] if it is a position that the file shares among rows, as rows are at different ones.

    A graph that cannot take that is refused when it is probed, since its states get another shape.
    """
    return replace(aux, rank=2) if aux.kind == "position" and shape in ((), (1,)) else aux


def _make(
    ports: Mapping[str, Port],
    name: str,
    kind: AuxiliaryKind,
    sources: Mapping[str, str],
    draws: Mapping[str, Draw],
) -> AuxiliaryInput:
    port = ports[name]
    dims = (port.shape or ())[1:]
    sizes: tuple[int | None, ...] = tuple(d if isinstance(d, int) else None for d in dims)
    aux = AuxiliaryInput(name, kind, port.dtype, len(port.shape or (0, 0)), source=sources.get(name, ""))
    if kind == "latent":
        return replace(aux, sizes=sizes, draw=draws[name])
    if kind == "source_mask":
        return replace(aux, sizes=tuple(1 if d == 1 else None for d in dims))
    if kind == "context":
        told = [ports[other].shape for other, context in sources.items() if context == name]
        return replace(aux, sizes=sizes, source_axis=_source_axis(sizes, told))
    return aux


def _source_axis(sizes: tuple[int | None, ...], told: Sequence[Shape]) -> int | None:
    """The dimension along which a context may differ in length: the only dynamic one, or the one that its mask has too.

    Args:
        told: shapes of the masks and lengths that tell the context's padding.
    """
    dynamic = [axis for axis, size in enumerate(sizes) if size is None]
    widths = {d for shape in told for d in (shape or ())[1:] if isinstance(d, int) and d > 1}
    fixed = [axis for axis, size in enumerate(sizes) if size in widths]
    if not dynamic and not fixed and told and len(sizes) in (1, 2):
        return 0  # [batch, source] or [batch, source, features] with a length
    return next((found[0] for found in (dynamic, fixed) if len(found) == 1), None)
