"""Finding the input that takes the tokens: ids, or one-hot vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from decoding.errors import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import VIEW_OPS, Port, listing
from decoding.model.roles.given import names_in
from decoding.model.roles.latents import LATENT_NAMES
from decoding.model.roles.masks import named_kind
from decoding.model.roles.state_pairs import clear_pairs, shows_state, varies_twice

_NAMES = re.compile(r"token|input_?ids?|\bids?\b|symbol|char|word", re.I)
# Exporters put these between ids and the embedding that they index: negative ids are wrapped, ids clipped.
_INDEX_OPS = {"Where", "Add", "Sub", "Mul", "Mod", "Max", "Min", "Clip"}


def find_token(graph: Graph, given: Mapping[str, Any], notes: list[str]) -> tuple[str, int | None]:
    """The token's input, and the width of its one-hot vectors if it takes these.

    Raises:
        ModelError: no input takes tokens, or several could.
    """
    roles = ("state", "context", "step_context", "position", "latent", "source_mask", "source_length")
    taken = {name for role in roles for name in names_in(given.get(role))}
    ports = [
        p for p in graph.inputs if p.name not in taken and not (p.dtype.kind == "f" and LATENT_NAMES.search(p.name))
    ]
    if name := given.get("token"):
        notes.append(f"token is {name}: given by roles")
        port = next(p for p in graph.inputs if p.name == name)
        width = _one_hot_width(graph, port) if embedding_rows(graph, name) is None else None
        if port.shape is not None and len(port.shape) not in ((1, 2) if width is None else (2, 3)):
            raise ModelError(
                f"{graph.name}: the token {port} has {len(port.shape)} dimensions; expected ids [batch], [batch, time] or [time, batch], or one-hot vectors as wide as an output: "
                "export it with these, or pass another input as roles={'token': name}"
            )
        return name, width
    flat = [p for p in ports if p.shape is None or len(p.shape) in (1, 2)]
    embedded = [p for p in flat if embedding_rows(graph, p.name) is not None]
    integer = [p for p in flat if p.dtype.kind in "iu" and named_kind(p.name) is None]
    named = [p for p in integer if _NAMES.search(p.name)]
    if len(embedded) == 1 and (rivals := _rivals(graph, embedded[0], integer, ports)):
        raise ModelError(
            f"{graph.name}: ambiguous: {listing([*embedded, *rivals])} could each be the token; pass roles={{'token': name}}"
        )
    for found, evidence in (
        (embedded, "it indexes an embedding"),
        (integer, "the only integer input"),
        (named, "its name"),
    ):
        if len(found) == 1:
            notes.append(f"token is {found[0].name}: {evidence}")
            return found[0].name, None
    if integer or embedded:
        raise ModelError(
            f"{graph.name}: ambiguous: {listing(embedded or integer)} could each be the token; pass roles={{'token': name}}"
        )
    vectors = _vectors(graph, ports)
    if len(vectors) == 1:
        width = _one_hot_width(graph, vectors[0])
        notes.append(f"token is {vectors[0].name}: one-hot vectors, as wide as the output ({width})")
        return vectors[0].name, width
    raise ModelError(
        f"{graph.name}: no input takes token ids (an integer tensor [batch], [batch, time] or [time, batch]) or one-hot vectors; "
        f"its inputs are {listing(graph.inputs)} and its operators {_operators(graph)}. decode() needs a recurrent "
        "network over tokens; if one of these is the token, pass roles={'token': name}"
    )


def _rivals(graph: Graph, port: Port, integer: Sequence[Port], ports: Sequence[Port]) -> list[Port]:
    """Inputs that are as likely the token as one that indexes an embedding, which may be that of a speaker or a tag.

    They are integers called as tokens are, where that one is not, and one-hot vectors for each time step, where its
    table has another number of rows.
    """
    if _NAMES.search(port.name):
        return []
    called = [p for p in integer if p is not port and _NAMES.search(p.name)]
    vectors = [p for p in _vectors(graph, ports) if p.shape is not None and len(p.shape) == 3]
    return [*called, *(p for p in vectors if _one_hot_width(graph, p) != embedding_rows(graph, port.name))]


def _vectors(graph: Graph, ports: Sequence[Port]) -> list[Port]:
    """The inputs that may take one-hot vectors: they are no states, and as wide as an output that is none."""
    fixed = [p for p in ports if p.dtype.kind == "f" and not varies_twice(p)]
    last = {p.name for p in graph.outputs if shows_state(graph, p.name)}
    states = clear_pairs(graph, fixed, graph.outputs, [])
    if last | set(states.values()) == {p.name for p in graph.outputs}:
        states = {}  # one of them is the scores, which a name such as output_1 may pair with the vectors
    shown = last | set(states.values())
    widths = {p.shape[-1] for p in graph.outputs if p.shape and p.name not in shown}
    free = [p for p in ports if p.name not in states and not shows_state(graph, p.name)]
    return [p for p in free if (width := _one_hot_width(graph, p)) is not None and width in widths]


def embedding_rows(graph: Graph, name: str) -> int | None:
    """Number of rows of the constant table that an input indexes, 0 where the file does not say; None where it indexes none."""
    todo, seen = [name], set[str]()
    while todo:
        if (tensor := todo.pop()) in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op == "Gather" and node.input(1) == tensor:
                table = graph.constant(_before_views(graph, node.input(0)))
                axis = node.integer("axis", 0)
                if (
                    table is not None
                    and table.ndim >= 2
                    and table.dtype.kind == "f"
                    and -table.ndim <= axis < table.ndim
                ):
                    return int(table.shape[axis])
            elif node.op == "OneHot" and node.input(0) == tensor:
                return 0
            elif node.op in _INDEX_OPS or (node.op in VIEW_OPS and node.input(0) == tensor):
                todo += node.outputs
    return None


def _before_views(graph: Graph, name: str) -> str:
    """The tensor of which this one is a re-arrangement or a copy."""
    while (node := graph.producer(name)) is not None and node.op in VIEW_OPS and node.op != "Concat":
        name = node.input(0)
    return name


def _one_hot_width(graph: Graph, port: Port) -> int | None:
    """The last dimension of a float input, if an output has the same; None for any other input."""
    if port.dtype.kind != "f" or not port.shape or not 2 <= len(port.shape) <= 3:
        return None
    width = port.shape[-1]
    return width if isinstance(width, int) and width in [p.shape[-1] for p in graph.outputs if p.shape] else None


def _operators(graph: Graph) -> str:
    ops = sorted({node.op for node in graph.nodes})
    return ", ".join(ops[:12]) + (", ..." if len(ops) > 12 else "")
