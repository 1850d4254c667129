"""Finding the roles of a graph's inputs and outputs: metadata first, then structure, names, dtypes and shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.graph import VIEW_OPS, Graph, Node, Port

# Input slots of the recurrent operators that take the initial state, and the outputs that give the last one.
STATE_SLOTS = {"LSTM": {"h": (5, 1), "c": (6, 2)}, "GRU": {"h": (5, 1)}, "RNN": {"h": (5, 1)}}

ROLE_KEYS = ("token", "logits", "state", "output", "batch_axis")
_TOKEN_NAMES = re.compile(r"token|input_?ids?|\bids?\b|symbol|char|word", re.I)
_LOGITS_NAMES = re.compile(r"logit|prob|score|softmax|\blinear|output", re.I)
# What exporters and people put around the name of a state to say which side of the step it is on.
_SIDE = re.compile(r"(?:^|[_./:]|(?<=[a-z]))(?:in|out|input|output|next|new|prev|previous|past|present|initial|init|final|last|n|0|1)(?=$|[_./:])", re.I)  # fmt: skip


@dataclass
class Roles:
    """What has been found out about a graph so far, with the evidence."""

    token: str
    logits: str
    states: dict[str, str]
    output: str | None = None
    batch_axis: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def given_roles(graph: Graph, roles: Mapping[str, Any] | None) -> dict[str, Any]:
    """The roles in the file's metadata, overridden by the caller's; checked against the graph.

    Raises:
        OptionError: an unknown key, or a name that the graph does not have.
    """
    merged = {**json_metadata(graph, "decoding.roles", {}), **(roles or {})}
    if unknown := sorted(set(merged) - set(ROLE_KEYS)):
        raise OptionError(f"roles: unknown key {unknown[0]!r}; expected some of {', '.join(ROLE_KEYS)}")
    ins, outs = [p.name for p in graph.inputs], [p.name for p in graph.outputs]
    states = merged.get("state", {})
    for key, names, known in (("token", [merged.get("token")], ins), ("logits", [merged.get("logits")], outs),
                              ("state", list(states), ins), ("state", list(states.values()), outs),
                              ("batch_axis", list(merged.get("batch_axis", {})), ins)):  # fmt: skip
        for name in names:
            if name is not None and name not in known:
                raise OptionError(f"roles[{key!r}]: {graph.name} has no {name!r} there; it has {', '.join(known)}")
    if merged.get("output", "logits") not in ("logits", "probs", "logprobs"):
        raise OptionError(f"roles['output']={merged['output']!r}: expected 'logits', 'probs' or 'logprobs'")
    return merged


def json_metadata(graph: Graph, key: str, default: Any) -> Any:
    """A JSON value of the file's metadata, or `default` where there is none."""
    text = graph.metadata.get(key)
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"{graph.name}: metadata {key!r} is not JSON ({error}); write it with json.dumps") from error


def find_roles(graph: Graph, given: Mapping[str, Any]) -> Roles:
    """Token, logits and the states that the graph already exposes.

    Raises:
        ModelError: a role cannot be told; the message lists what was found and what to pass.
    """
    notes: list[str] = []
    token = _find_token(graph, given, notes)
    states = _pair_states(graph, given, token, notes)
    logits = _find_logits(graph, given, token, states, notes)
    return Roles(token, logits, states, given.get("output"), dict(given.get("batch_axis", {})), notes)


def recurrent_path(graph: Graph, token: str, logits: str) -> list[Node]:
    """The LSTM, GRU and RNN nodes between the token and the logits, which all must run forward in time.

    Raises:
        ModelError: one of them runs backward, so no step can be taken before the whole sequence is known.
    """
    path = graph.descendants(token) & graph.ancestors(logits)
    nodes = [node for node in graph.nodes if node.op in STATE_SLOTS and path & set(node.outputs)]
    for node in nodes:
        if (direction := node.attribute("direction", "forward")) != "forward":
            raise ModelError(f"{graph.name}: the {node.op} layer {node.label!r} is {direction}: it reads the sequence from its end, so it is "
                             "an encoder and cannot be decoded step by step; pass it to load(decoder, encoder=...) or export a forward layer")  # fmt: skip
    return nodes


def _find_token(graph: Graph, given: Mapping[str, Any], notes: list[str]) -> str:
    if name := given.get("token"):
        notes.append(f"token is {name}: given by roles")
        return str(name)
    taken = set(given.get("state", {}))
    ports = [p for p in graph.inputs if p.name not in taken and (p.shape is None or len(p.shape) in (1, 2))]
    embedded = [p for p in ports if _feeds_embedding(graph, p.name)]
    integer = [p for p in ports if np.issubdtype(p.dtype, np.integer)]
    named = [p for p in integer if _TOKEN_NAMES.search(p.name)]
    for found, evidence in (
        (embedded, "it indexes an embedding"),
        (integer, "the only integer input"),
        (named, "its name"),
    ):
        if len(found) == 1:
            notes.append(f"token is {found[0].name}: {evidence}")
            return found[0].name
    if not ports or not (integer or embedded):
        raise ModelError(f"{graph.name}: no input takes token ids (an integer tensor [batch], [batch, time] or [time, batch]); "
                         f"its inputs are {_listing(graph.inputs)} and its operators {_operators(graph)}. decode() needs a recurrent "
                         "network over tokens; if one of these is the token, pass roles={'token': name}")  # fmt: skip
    raise ModelError(
        f"{graph.name}: ambiguous: {_listing(embedded or integer)} could each be the token; pass roles={{'token': name}}"
    )


def _feeds_embedding(graph: Graph, name: str) -> bool:
    """Does the input select rows of a constant table?"""
    todo, seen = [name], set[str]()
    while todo:
        if (tensor := todo.pop()) in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op == "Gather" and node.input(1) == tensor:
                table = graph.constant(_behind_views(graph, node.input(0)))
                if table is not None and table.ndim >= 2 and table.dtype.kind == "f":
                    return True
            elif node.op == "OneHot" and node.input(0) == tensor:
                return True
            elif node.op in VIEW_OPS and node.input(0) == tensor:
                todo += node.outputs
    return False


def _behind_views(graph: Graph, name: str) -> str:
    while (node := graph.producer(name)) is not None and node.op in VIEW_OPS and node.op != "Concat":
        name = node.input(0)
    return name


def _pair_states(graph: Graph, given: Mapping[str, Any], token: str, notes: list[str]) -> dict[str, str]:
    """Which output is the next value of which input: by roles, by recurrent node, by name, by shape and order."""
    if "state" in given:
        notes.append("states: given by roles")
        return dict(given["state"])
    ins = [p for p in graph.inputs if p.name != token]
    outs = [p for p in graph.outputs if p.name != given.get("logits")]
    pairs: dict[str, str] = {}
    for key, evidence in (
        (_recurrent_slots, "they enter and leave the same recurrent layer"),
        (_stem, "their names"),
    ):
        keys = {p.name: key(graph, p.name) for p in (*ins, *outs)}
        for a in ins:
            same = [b for b in outs if keys[a.name] and keys[a.name] == keys[b.name] and _alike(a, b)]
            rivals = [b for b in ins if keys[a.name] == keys[b.name]]
            if a.name not in pairs and len(same) == 1 and len(rivals) == 1 and same[0].name not in pairs.values():
                pairs[a.name] = same[0].name
                notes.append(f"state {a.name} -> {same[0].name}: {evidence}")
    return _pair_rest(graph, pairs, ins, outs, notes)


def _pair_rest(
    graph: Graph, pairs: dict[str, str], ins: Sequence[Port], outs: Sequence[Port], notes: list[str]
) -> dict[str, str]:
    """Pair what is left where dtype and shape leave one choice; stop where they leave several."""
    for a in ins:
        if a.name in pairs or np.issubdtype(a.dtype, np.integer):
            continue
        if not graph.consumers(a.name):
            raise ModelError(f"{graph.name}: the input {a.name} is used by nothing. An exporter that is given the same tensor for two inputs merges them: "
                             "export again with two tensors, one for each state")  # fmt: skip
        rivals = [b for b in ins if b.name not in pairs and _alike(a, b)]
        left = [
            b for b in outs if b.name not in pairs.values() and _alike(a, b) and b.name in graph.descendants(a.name)
        ]
        if len(rivals) == len(left) == 1:
            pairs[a.name] = left[0].name
            notes.append(f"state {a.name} -> {left[0].name}: the only output of its dtype and shape")
        elif left:
            raise ModelError(f"{graph.name}: ambiguous: the next value of the input {a} could be any of {_listing(left)}; "
                             "pass roles={'state': {input: output, ...}}")  # fmt: skip
        else:
            raise ModelError(f"{graph.name}: nobody feeds the input {a}: no output has its dtype and shape, so it is no recurrent state; "
                             "export the model without it, or pass roles={'state': {input: output}}")  # fmt: skip
    return pairs


def _recurrent_slots(graph: Graph, name: str) -> frozenset[tuple[str, str]]:
    """The recurrent layers, and which of their states, that a graph input feeds or a graph output shows."""
    found = set()
    todo, seen = [name], set[str]()
    while todo:
        if (tensor := todo.pop()) in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op in VIEW_OPS and tensor in (node.inputs if node.op == "Concat" else node.inputs[:1]):
                todo += node.outputs
            for state, (slot, _) in STATE_SLOTS.get(node.op, {}).items():
                if node.input(slot) == tensor:
                    found.add((node.label, state))
    if found:
        return frozenset(found)
    todo, seen = [name], set()
    while todo:
        tensor = todo.pop()
        maker = graph.producer(tensor)
        if tensor in seen or maker is None:
            continue
        seen.add(tensor)
        if maker.op in VIEW_OPS:
            todo += maker.inputs if maker.op == "Concat" else maker.inputs[:1]
        for state, (_, slot) in STATE_SLOTS.get(maker.op, {}).items():
            if slot < len(maker.outputs) and maker.outputs[slot] == tensor:
                found.add((maker.label, state))
    return frozenset(found)


def _stem(graph: Graph, name: str) -> str:
    """The name without what says which side of the step it is on: h_in, h_out, new_h and past.h are all h."""
    return re.sub(r"[^a-z0-9]+", "", _SIDE.sub("", name).lower())


def _alike(a: Port, b: Port) -> bool:
    """Could these be the same state before and after a step?"""
    if a.dtype != b.dtype:
        return False
    if a.shape is None or b.shape is None:
        return True
    return len(a.shape) == len(b.shape) and all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in zip(a.shape, b.shape, strict=True)
    )


def _find_logits(
    graph: Graph, given: Mapping[str, Any], token: str, states: Mapping[str, str], notes: list[str]
) -> str:
    if name := given.get("logits"):
        notes.append(f"logits are {name}: given by roles")
        return str(name)
    downstream = graph.descendants(token)
    ports = [p for p in graph.outputs if p.name not in states.values() and p.dtype.kind == "f" and p.name in downstream]
    layers = [
        p for p in ports if not _recurrent_slots(graph, p.name)
    ]  # a last state that no input takes back is no logits
    named = [p for p in layers if _LOGITS_NAMES.search(p.name)]
    for found, evidence in (
        (ports, "the only output left"),
        (layers, "the only output that is no recurrent state"),
        (named, "its name"),
    ):
        if len(found) == 1:
            notes.append(f"logits are {found[0].name}: {evidence}")
            return found[0].name
    if not ports:
        raise ModelError(f"{graph.name}: no output gives logits: a floating-point tensor computed from {token} that is no state; "
                         f"its outputs are {_listing(graph.outputs)}; pass roles={{'logits': name}}")  # fmt: skip
    raise ModelError(
        f"{graph.name}: ambiguous: {_listing(layers or ports)} could each be the logits; pass roles={{'logits': name}}"
    )


def _listing(ports: Iterable[Port]) -> str:
    return "; ".join(str(p) for p in ports) or "none"


def _operators(graph: Graph) -> str:
    ops = sorted({node.op for node in graph.nodes})
    return ", ".join(ops[:12]) + (", ..." if len(ops) > 12 else "")
