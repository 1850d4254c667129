"""Finding the logits and the attention weights among a graph's outputs."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from decoding.errors import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import STATE_SLOTS, VIEW_OPS, Port, listing
from decoding.model.roles.state_pairs import shows_state

_LOGITS_NAMES = re.compile(r"logit|prob|score|softmax|\blinear|output", re.I)
_ATTENTION_NAMES = re.compile(r"att|align", re.I)


def find_attention(graph: Graph, given: Mapping[str, Any], states: Mapping[str, str], notes: list[str]) -> str | None:
    """The output with the attention weights over a context, if roles or a name say so."""
    if name := given.get("attention"):
        notes.append(f"attention is {name}: given by roles")
        return str(name)
    ports = [p for p in graph.outputs if p.name not in states.values() and p.dtype.kind == "f"]
    named = [p.name for p in ports if _ATTENTION_NAMES.search(p.name)]
    if len(named) != 1 or len(ports) < 2:
        return None
    notes.append(f"attention is {named[0]}: its name")
    return named[0]


def find_logits(
    graph: Graph, given: Mapping[str, Any], token: str, taken: Container[str | None], notes: list[str]
) -> str:
    """The output with the scores of the next token.

    Args:
        taken: outputs that have another role.

    Raises:
        ModelError: no output, or several, could give logits.
    """
    if name := given.get("logits"):
        notes.append(f"logits are {name}: given by roles")
        return str(name)
    downstream = graph.descendants(token)
    ports = [p for p in graph.outputs if p.name not in taken and p.dtype.kind == "f" and p.name in downstream]
    layers = [p for p in ports if not shows_state(graph, p.name)]  # a last state that no input takes back is no logits
    named = [p for p in layers if _LOGITS_NAMES.search(p.name)]
    own = {p.name for p in ports if _is_layer_output(graph, p)}
    scored = [p for p in named if p.name not in own]
    for found, evidence in (
        (ports, "the only output left"),
        (layers, "the only output that is no recurrent state"),
        (scored, "its name"),
    ):
        if len(found) == 1 and found[0].name not in own:
            notes.append(f"logits are {found[0].name}: {evidence}")
            return found[0].name
    if not ports:
        raise ModelError(
            f"{graph.name}: no output gives logits: a floating-point tensor computed from {token} that is no state; "
            f"its outputs are {listing(graph.outputs)}; pass roles={{'logits': name}}"
        )
    if not scored and (not layers or any(p.name in own for p in layers)):
        raise ModelError(
            f"{graph.name}: it is an encoder: its outputs {listing(ports)} are a recurrent layer's own, none gives logits; "
            "load it together with its decoder, load(decoder, encoder=...), or pass roles={'logits': name}"
        )
    raise ModelError(
        f"{graph.name}: ambiguous: {listing(layers or ports)} could each be the logits; pass roles={{'logits': name}}"
    )


def _is_layer_output(graph: Graph, port: Port) -> bool:
    """Return whether an output is a recurrent layer's sequence or last state, perhaps re-arranged or with its rows reordered."""
    todo, seen = [port.name], set[str]()
    while todo:
        node = graph.producer(name := todo.pop())
        if node is None:
            return False
        if node.op in STATE_SLOTS or name in seen:
            continue
        # torch sorts the rows of packed sequences, and reorders them by a Gather.
        if node.op not in VIEW_OPS and node.op != "Gather":
            return False
        seen.add(name)
        todo += node.inputs if node.op == "Concat" else node.inputs[:1]
    return True
