"""Inputs that are neither token nor state: the kind of each, and what its declared shape says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, AuxiliaryKind, Draw
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Port, Shape
from decoding.model.roles.masks import find_kind, find_sources, kind_evidence
from decoding.model.roles.token import embedding_rows

# The values of an input that follows the tokens.
_VALUES: dict[AuxiliaryKind, str] = {
    "mask": "ones: no token is padding",
    "position": "the token's position",
    "length": "the number of tokens",
}
# A name that stands for parts of speech as well as for positions.
_PARTS_OF_SPEECH = re.compile(r"(?:^|[_./:])pos(?:_?ids?)?$", re.I)


def find_kinds(
    graph: Graph,
    given: Mapping[str, Any],
    ports: Iterable[Port],
    token: str,
    draws: Mapping[str, Draw],
    notes: list[str],
    counters: Mapping[str, str],
) -> tuple[dict[str, AuxiliaryKind], dict[str, str]]:
    """The kind of each of a decoder's inputs that are neither token nor state, and the context of each source mask and length.

    Args:
        counters: inputs that count the tokens, and the output of each that is one more.

    Raises:
        ModelError: no kind fits an input, or two do.
    """
    kinds: dict[str, AuxiliaryKind] = {}
    token_port = next(p for p in graph.inputs if p.name == token)
    for port in ports:
        kind = "latent" if port.name in draws else find_kind(graph, port, given)
        if kind == "position" and port.name not in given.get("position", ()):
            _check_position(graph, port)
        if port.name in counters:
            kind = "position"
        if kind is None and _shares_time(port.shape, token_port.shape):
            kind = "step_context"
        if kind is None:
            if not (port.dtype.kind == "f" and port.shape):
                raise ModelError(
                    f"{graph.name}: nobody feeds the input {port}: it is no token, and no output has its dtype and shape and depends on it, so it is no recurrent state. "
                    f"Pass roles={{'constant': {{{port.name!r}: value}}}} for a fixed value, roles={{'position': {port.name!r}}} for the token's position, roles={{'context': [{port.name!r}]}} for one that decode() is given for each prompt, roles={{'step_context': [{port.name!r}]}} for each token, roles={{'source_length': {port.name!r}}} or roles={{'source_mask': {port.name!r}}} for one that tells where a context ends, or roles={{'state': {{{port.name!r}: output}}}}"
                )
            kind = "context"
        kinds[port.name] = kind
    sources = find_sources(graph, given, token, kinds, notes)
    for name, kind in kinds.items():
        if kind in _VALUES:
            evidence = "given by roles" if name in given.get("position", ()) else kind_evidence(graph, name)
            evidence = f"its output {counters[name]} is one more" if name in counters else evidence
            notes.append(f"{name} is filled with {_VALUES[kind]}: {evidence}")
        elif kind == "context":
            notes.append(
                f"{name} is a context, given by the caller: neither token nor state nor anything that decoding fills"
            )
        elif kind == "step_context":
            notes.append(f"{name} is a step context: the caller gives a value for each token")
    return kinds, sources


def _check_position(graph: Graph, port: Port) -> None:
    """Refuse to take an input for positions whose name and use fit parts of speech as well.

    Raises:
        ModelError: it is called `pos`, has a value for each row, and looks up a table.
    """
    if (
        _PARTS_OF_SPEECH.search(port.name)
        and port.shape not in ((), (1,))
        and embedding_rows(graph, port.name) is not None
    ):
        raise ModelError(
            f"{graph.name}: ambiguous: {port} could be the token's position, or a value that the caller gives for each token, such as a part of speech; "
            f"pass roles={{'position': {port.name!r}}} or roles={{'step_context': [{port.name!r}]}}"
        )


def _shares_time(shape: Shape, token: Shape) -> bool:
    """Return whether an input declares the token's own dimensions, [batch, time] or [time, batch], as its first two."""
    if shape is None or token is None or len(token) != 2:
        return False
    return shape[:2] == token and all(isinstance(d, str) for d in token)


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


def with_time(aux: AuxiliaryInput, shape: Shape, token: Shape) -> AuxiliaryInput:
    """The input with a time axis of any length if it has a value for each token and its second dimension is the token's time."""
    if aux.kind == "step_context" and len(shape or ()) > 1 and len(token or ()) > 1 and shape[1] == token[1]:  # type: ignore[index]
        return replace(aux, sizes=(None, *aux.sizes[1:]))
    return aux


def over_past(aux: AuxiliaryInput, shape: Shape, token: Shape) -> AuxiliaryInput:
    """The input of a graph whose states grow: a mask whose length is not that of the run's tokens spans all tokens so far."""
    length, time = (shape or ())[1:], (token or ())[1:]
    spans = aux.kind == "mask" and len(length) == 1 and not isinstance(length[0], int) and length != time
    return replace(aux, over_past=True) if spans else aux


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
    if kind == "step_context":
        return replace(aux, sizes=sizes)
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
