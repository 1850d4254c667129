"""Masks and lengths: do they speak of the tokens, or of a context, whose padding they tell?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.model.contract.io import AuxiliaryKind
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import STATE_SLOTS, Port, Shape, listing

_SOURCE_NAMES = re.compile(r"src|source|enc|mem|context|ctx|image|grid|feature|input_?len", re.I)
_TOKEN_NAMES = re.compile(r"tgt|trg|target|dec|tok", re.I)


def tell_sources(
    graph: Graph, given: Mapping[str, Any], token: str, auxiliary_inputs: dict[str, AuxiliaryKind], notes: list[str]
) -> dict[str, str]:
    """The context that each mask and length is about that speaks of one; their kinds in `fills` are changed.

    Raises:
        ModelError: nothing tells.
    """
    ports = {p.name: p for p in graph.inputs}
    contexts = [
        ports[name] for name, kind in auxiliary_inputs.items() if kind == "context" and _is_sequence(ports[name].shape)
    ]
    sources = {}
    for name, kind in list(auxiliary_inputs.items()):
        if kind not in ("mask", "length", "source_mask", "source_length"):
            continue
        asked = given.get(kind, "") if kind.startswith("source") else ""
        evidence = "given by roles" if asked else _evidence(graph, ports[name], ports[token], contexts, kind)
        if not evidence:
            continue
        auxiliary_inputs[name] = kind if asked else "source_mask" if kind == "mask" else "source_length"
        sources[name] = (
            asked[name] if isinstance(asked, Mapping) else _about(graph, ports[name], contexts, auxiliary_inputs[name])
        )
        if sources[name] not in [p.name for p in contexts]:
            raise OptionError(
                f"roles[{kind!r}]: {graph.name} has no context {sources[name]!r}; its contexts are {listing(contexts)}"
            )
        notes[:] = [note for note in notes if not note.startswith(f"{name} is filled")]  # what it was taken for first
        notes.append(f"{name} tells where {sources[name]} ends: {evidence}")
    return sources


def _evidence(graph: Graph, port: Port, token: Port, contexts: list[Port], kind: str) -> str:
    """Why a mask or length is about a context; empty where it is about the tokens."""
    if not contexts:
        return ""
    if kind == "length" and any(
        node.op in STATE_SLOTS and port.name in graph.ancestors(node.input(4)) for node in graph.nodes
    ):
        return ""
    dims = [d for d in (port.shape or ())[1:] if d not in (1, None)]
    if kind == "mask" and dims:
        in_token = any(d in (token.shape or ()) for d in dims)
        in_context = any(d in (p.shape or ())[1:] for d in dims for p in contexts)
        if in_token != in_context:
            return "its dimension is the context's" if in_context else ""
    if kind == "length" and any(_meets(graph, port.name, p.name, token.name) for p in contexts):
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


def _about(graph: Graph, port: Port, contexts: list[Port], kind: str) -> str:
    """The context that a mask or length is about: the only one of a length, or the one that shares its dimension.

    Contexts that share a dimension by its name (an encoder's outputs and the keys made of them) are of one length: the first
    stands for all.
    """
    varying = [p for p in contexts if _may_vary(p.shape)] or contexts
    dims = [d for d in (port.shape or ())[1:] if d not in (1, None)]
    sharing = [p for p in varying if any(d in (p.shape or ()) for d in dims)]
    named = [p for p in varying if any(isinstance(d, str) and d in (p.shape or ()) for d in dims)]
    for found in (named[:1], sharing, varying):
        if len(found) == 1:
            return found[0].name
    raise ModelError(
        f"{graph.name}: ambiguous: {port} could tell the padding of {listing(varying)}; pass roles={{{kind!r}: {{{port.name!r}: context}}}}"
    )


def _is_sequence(shape: Shape) -> bool:
    """Could a context's positions be padded: has it more than one dimension behind its batch, or one that is not fixed?"""
    return shape is not None and (len(shape) > 2 or _may_vary(shape))


def _may_vary(shape: Shape) -> bool:
    """Has a context a dimension behind its batch that is not fixed?"""
    return shape is not None and any(not isinstance(d, int) for d in shape[1:])


def _meets(graph: Graph, name: str, context: str, token: str) -> bool:
    """Is anything computed from the input and the context's shape alone, as a mask of the context is?"""
    both = graph.descendants(name) & graph.descendants(context)
    return any(
        token not in graph.ancestors(tensor, stop_ops=("Shape",))
        and context not in graph.ancestors(tensor, stop_ops=("Shape",))
        for tensor in both
    )
