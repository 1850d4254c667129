"""Finding masks, lengths and positions, of decoders and of encoders, and the context that a mask or length belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.contract.io import AuxiliaryKind
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import STATE_SLOTS, VIEW_OPS, Port, Shape, listing
from decoding.model.roles.given import names_in
from decoding.model.runtime.session import constant_values

_NAMES: dict[AuxiliaryKind, re.Pattern[str]] = {
    "mask": re.compile(r"mask", re.I),
    "position": re.compile(r"pos(ition)?(_?ids?)?\b|\bstep\b", re.I),
    "length": re.compile(r"len", re.I),
}
# In the name of a mask or length: whether it is about a source or about the tokens.
_SOURCE_NAMES = re.compile(r"src|source|enc|mem|context|ctx|image|grid|feature|input_?len", re.I)
_TOKEN_NAMES = re.compile(r"tgt|trg|target|dec|tok", re.I)


def named_kind(name: str) -> AuxiliaryKind | None:
    """Whether an input's name is that of a mask, a position or a length.

    >>> named_kind("src_mask"), named_kind("position_ids"), named_kind("lengths"), named_kind("tokens")
    ('mask', 'position', 'length', None)
    """
    return next((kind for kind, names in _NAMES.items() if names.search(name)), None)


def find_kind(graph: Graph, port: Port, given: Mapping[str, Any]) -> AuxiliaryKind | None:
    """Whether an input is a mask, a position or a length, by roles, by its name or by the layers that read it; None for neither.

    Roles come first: they give an input of any name any kind.
    """
    kinds: tuple[AuxiliaryKind, ...] = ("source_mask", "source_length", "position", "context", "step_context")
    for kind in kinds:
        if port.name in names_in(given.get(kind)):
            return kind
    named, rank, integer = named_kind(port.name), len(port.shape or ()), port.dtype.kind in "iu"
    if named == "mask" or (named == "position" and integer):
        return named
    if (rank < 2 or (rank < 3 and integer)) and _gives_lengths(graph, port.name):
        return "length"
    return "length" if named == "length" and integer and rank < 3 else None


def find_counters(graph: Graph, token: Port, ports: Sequence[Port]) -> dict[str, str]:
    """The inputs that count the tokens for all rows together, each with its output: that is one more.

    Such as a step of shape [] or [1], where the token has any number of rows. Rows are at different positions, so it is filled in
    as a position is.
    """
    shared = [()] if token.shape and isinstance(token.shape[0], int) else [(), (1,)]
    counts = [a for a in ports if a.shape in shared]
    return {a.name: b.name for a in counts for b in graph.outputs if _is_one_more(graph, a.name, b.name)}


def _is_one_more(graph: Graph, name: str, output: str) -> bool:
    """Return whether an output is an input plus one, perhaps re-arranged."""
    node = graph.producer(output)
    while node is not None and node.op in VIEW_OPS and node.op != "Concat":
        node = graph.producer(node.input(0))
    if node is None or node.op != "Add" or name not in node.inputs:
        return False
    added = constant_values(graph, [node.input(1 - node.inputs.index(name))])
    return added is not None and np.array_equal(np.ravel(added[0]), [1])


def find_sources(
    graph: Graph, given: Mapping[str, Any], token: str | None, kinds: dict[str, AuxiliaryKind], notes: list[str]
) -> dict[str, str]:
    """The context whose padding each mask and length tells, of those that are about one rather than about the tokens.

    Args:
        token: None for an encoder, where every mask and length is about a source.
        kinds: of each auxiliary input; a mask that is about a context becomes a "source_mask", a length a "source_length".

    Raises:
        ModelError: a mask or length could be about several contexts, or about the tokens as well.
        OptionError: roles name a context that the graph does not have.
    """
    ports = {p.name: p for p in graph.inputs}
    contexts = [ports[name] for name, kind in kinds.items() if kind == "context" and _is_sequence(ports[name])]
    if token is None and not contexts:
        contexts = [ports[name] for name, kind in kinds.items() if kind == "context" and len(ports[name].shape or ()) > 1]  # fmt: skip
    sources = {}
    for name, kind in list(kinds.items()):
        if kind in ("source_mask", "source_length"):
            evidence = "given by roles"
        elif kind not in ("mask", "length"):
            continue
        elif token is None:
            evidence = kind_evidence(graph, name)
        elif not (evidence := _evidence(graph, ports[name], ports[token], contexts, kind)):
            continue
        kind = kinds[name] = "source_mask" if kind.endswith("mask") else "source_length"
        asked = given.get(kind)
        # Roles may speak of an input of the decoder whose name the encoder has too.
        if isinstance(asked, Mapping) and name in asked and (token is not None or asked[name] in ports):
            sources[name] = asked[name]
        else:
            sources[name] = _context_of(graph, ports[name], contexts, kind)
        if sources[name] not in [p.name for p in contexts]:
            raise OptionError(
                f"roles[{kind!r}]: {graph.name} has no context {sources[name]!r}; its contexts are {listing(contexts)}"
            )
        notes.append(f"{name} tells where {sources[name]} ends: {evidence}")
    return sources


def kind_evidence(graph: Graph, name: str) -> str:
    """Why an input is a mask or length, as a note says it."""
    return "it gives a recurrent layer its sequence lengths" if _gives_lengths(graph, name) else "its name"


def _gives_lengths(graph: Graph, name: str) -> bool:
    """Return whether a recurrent layer's sequence lengths are computed from an input's values."""
    lengths = [node.input(4) for node in graph.nodes if node.op in STATE_SLOTS and node.input(4)]
    return any(name in graph.ancestors(length, stop_ops=("Shape",)) for length in lengths)


def _evidence(graph: Graph, port: Port, token: Port, contexts: list[Port], kind: AuxiliaryKind) -> str:
    """Why a mask or length is about a context; empty where it is about the tokens."""
    if not contexts or (kind == "length" and _gives_lengths(graph, port.name)):
        return ""
    dims = _dynamic_or_large(port.shape)
    if kind == "mask" and dims:
        in_token = any(d in (token.shape or ()) for d in dims)
        in_context = any(d in (p.shape or ())[1:] for d in dims for p in contexts)
        if in_token != in_context:
            return "its dimension is the context's" if in_context else ""
    if kind == "length" and any(_meets_size(graph, port.name, p.name, token.name) for p in contexts):
        return "it is compared with the context's size"
    source_name, token_name = bool(_SOURCE_NAMES.search(port.name)), bool(_TOKEN_NAMES.search(port.name))
    if source_name != token_name:
        return "its name" if source_name else ""
    steps = (token.shape or (None, None))[1:]
    if kind == "mask" and port.shape and len(port.shape) > 1 and port.shape[-1] != 1 and steps in ((), (1,)):
        return "the token is a single step"
    raise ModelError(
        f"{graph.name}: ambiguous: {port} could tell the padding of the tokens or of {listing(contexts)}; pass roles={{'source_{kind}': {port.name!r}}} "
        "where it tells the context's, or export it under a name with 'source' or 'target' in it"
    )


def _context_of(graph: Graph, port: Port, contexts: list[Port], kind: AuxiliaryKind) -> str:
    """The context that a mask or length is about: the only one of dynamic length, or the one that shares its dimension.

    Contexts that share a dimension by its name (an encoder's outputs and the keys made of them) have the same length: the
    first stands for all.
    """
    varying = [p for p in contexts if _is_dynamic(p.shape)] or contexts
    dims = _dynamic_or_large(port.shape)
    sharing = [p for p in varying if any(d in (p.shape or ()) for d in dims)]
    named = [p for p in varying if any(isinstance(d, str) and d in (p.shape or ()) for d in dims)]
    for found in (named[:1], sharing, varying):
        if len(found) == 1:
            return found[0].name
    if not varying:
        raise ModelError(
            f"{graph.name}: {port} could tell where a source ends, but no other input has more than one dimension; export the encoder without it"
        )
    raise ModelError(
        f"{graph.name}: ambiguous: {port} could tell the padding of {listing(varying)}; pass roles={{{kind!r}: {{{port.name!r}: context}}}}"
    )


def _dynamic_or_large(shape: Shape) -> list[int | str]:
    """The dimensions after the batch that may tell which other input they belong to."""
    return [d for d in (shape or ())[1:] if d is not None and d != 1]


def _is_sequence(port: Port) -> bool:
    """Return whether an input could be padded: ids, several dimensions after the batch, or one that is not fixed."""
    ids = port.dtype.kind in "iu" and bool(_dynamic_or_large(port.shape))
    return port.shape is not None and (ids or len(port.shape) > 2 or _is_dynamic(port.shape))


def _is_dynamic(shape: Shape) -> bool:
    """Return whether a dimension after the batch is not fixed."""
    return shape is not None and any(not isinstance(d, int) for d in shape[1:])


def _meets_size(graph: Graph, name: str, context: str, token: str) -> bool:
    """Return whether a tensor is computed from an input and a context's shape alone, as a mask of the context is."""
    both = graph.descendants(name) & graph.descendants(context)
    return any(not {token, context} & graph.ancestors(tensor, stop_ops=("Shape",)) for tensor in both)
