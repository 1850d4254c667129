"""Finding the roles of a graph's inputs and outputs: what was given first, then structure, names, dtypes and shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.contract.io import AuxiliaryKind, Draw
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, VIEW_OPS, Port, listing
from decoding.model.roles.latents import LATENT_NAMES, find_latents
from decoding.model.roles.masks import tell_sources
from decoding.model.roles.state_pairs import pair_states, shown_slots

ROLE_KEYS = ("token", "logits", "state", "output", "batch_axis", "constant", "context", "attention", "window", "pad",
             "encoder", "latent", "source_mask", "source_length")  # fmt: skip
_TOKEN_NAMES = re.compile(r"token|input_?ids?|\bids?\b|symbol|char|word", re.I)
# What exporters put between ids and the embedding they index: negative ids wrapped, ids clipped.
_INDEX_OPS = {"Where", "Add", "Sub", "Mul", "Mod", "Max", "Min", "Clip"}
_LOGITS_NAMES = re.compile(r"logit|prob|score|softmax|\blinear|output", re.I)
_ATTENTION_NAMES = re.compile(r"att|align", re.I)
_AUXILIARY_NAMES: dict[AuxiliaryKind, re.Pattern[str]] = {"mask": re.compile(r"mask", re.I), "position": re.compile(r"pos(ition)?(_?ids?)?\b|\bstep\b", re.I),
               "length": re.compile(r"len", re.I)}  # fmt: skip


@dataclass
class Roles:
    """What has been found out about a graph so far, with the evidence.

    Attributes:
        states: output of each state input.
        fills: the kind of each input that is neither token nor state.
        sources: the context that each source_mask and source_length is about.
        draws: how each latent is drawn.
        attention: output with the weights over the source, None where there is none.
        one_hot: width of the token's one-hot vectors, None where it takes ids.
        output: "logits", "probs" or "logprobs" where that is known.
    """

    token: str
    logits: str
    states: dict[str, str]
    auxiliary_inputs: dict[str, AuxiliaryKind]
    attention: str | None = None
    one_hot: int | None = None
    output: str | None = None
    batch_axis: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    draws: dict[str, Draw] = field(default_factory=dict)


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
    for key, names, known in (
        ("token", [merged.get("token")], ins),
        ("logits", [merged.get("logits")], outs),
        ("state", list(states), ins),
        ("state", list(states.values()), outs),
        ("batch_axis", list(merged.get("batch_axis", {})), ins),
        ("attention", [merged.get("attention")], outs),
        ("constant", list(merged.get("constant", {})), ins),
        ("context", list(merged.get("context", [])), ins),
        ("latent", list(merged.get("latent", {})), ins),
        ("source_mask", names_in(merged.get("source_mask", ())), ins),
        ("source_length", names_in(merged.get("source_length", ())), ins),
    ):
        for name in names:
            if name is not None and name not in known:
                raise OptionError(f"roles[{key!r}]: {graph.name} has no {name!r} there; it has {', '.join(known)}")
    if merged.get("output", "logits") not in ("logits", "probs", "logprobs"):
        raise OptionError(f"roles['output']={merged['output']!r}: expected 'logits', 'probs' or 'logprobs'")
    return merged


def names_in(value: Any) -> list[str]:
    """The inputs that a role names: one, or the keys of a dict."""
    return [value] if isinstance(value, str) else list(value)


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
    """Token, logits, the states that the graph already exposes, and the inputs that decoding fills.

    Raises:
        ModelError: a role cannot be told; the message lists what was found and what to pass.
    """
    notes: list[str] = []
    token, one_hot = _find_token(graph, given, notes)
    ins = [p for p in graph.inputs if p.name != token]
    for port in ins:
        if not graph.consumers(port.name):
            raise ModelError(
                f"{graph.name}: the input {port.name} is used by nothing. An exporter that is given the same tensor for two inputs merges them: "
                "export again with two tensors, one for each state"
            )
    if "state" in given:
        states = dict(given["state"])
        notes.append("states: given by roles")
    else:
        states = pair_states(graph, ins, [p for p in graph.outputs if p.name != given.get("logits")], notes)
    left = [p for p in ins if p.name not in states]
    draws = find_latents(graph, given, left, token, notes)
    auxiliary_inputs: dict[str, AuxiliaryKind] = {
        p.name: "latent" if p.name in draws else _auxiliary_kind(graph, p, given, notes) for p in left
    }
    sources = tell_sources(graph, given, token, auxiliary_inputs, notes)
    attention = _find_attention(graph, given, states, notes)
    logits = _find_logits(graph, given, token, {*states.values(), attention}, notes)
    return Roles(
        token,
        logits,
        states,
        auxiliary_inputs,
        attention,
        one_hot,
        given.get("output"),
        dict(given.get("batch_axis", {})),
        notes,
        sources,
        draws,
    )


def recurrent_path(graph: Graph, token: str, logits: str) -> list[Node]:
    """The recurrent layers, Loops and Scans between the token and the logits, in the order of execution."""
    path = graph.descendants(token) & graph.ancestors(logits)
    return [node for node in graph.nodes if (node.op in STATE_SLOTS or node.carried()) and path & set(node.outputs)]


def data_ancestors(graph: Graph, name: str) -> set[str]:
    """What the values of a tensor depend on; its shape may depend on more."""
    return graph.ancestors(name, stop_ops=("Shape", "Size"))


def _find_token(graph: Graph, given: Mapping[str, Any], notes: list[str]) -> tuple[str, int | None]:
    """The token's input, and the width of its one-hot vectors if that is what it takes."""
    roles = ("state", "context", "latent", "source_mask", "source_length")
    taken = {name for role in roles for name in names_in(given.get(role, ()))}
    ports = [
        p for p in graph.inputs if p.name not in taken and not (p.dtype.kind == "f" and LATENT_NAMES.search(p.name))
    ]
    if name := given.get("token"):
        notes.append(f"token is {name}: given by roles")
        port = next(p for p in ports if p.name == name)
        return name, _one_hot_width(graph, port) if port.dtype.kind == "f" and not _feeds_embedding(
            graph, name
        ) else None
    flat = [p for p in ports if p.shape is None or len(p.shape) in (1, 2)]
    embedded = [p for p in flat if _feeds_embedding(graph, p.name)]
    integer = [
        p
        for p in flat
        if np.issubdtype(p.dtype, np.integer) and not any(name.search(p.name) for name in _AUXILIARY_NAMES.values())
    ]
    named = [p for p in integer if _TOKEN_NAMES.search(p.name)]
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
    vectors = [p for p in ports if _one_hot_width(graph, p) is not None and not shown_slots(graph, p.name)]
    if len(vectors) == 1:
        width = _one_hot_width(graph, vectors[0])
        notes.append(f"token is {vectors[0].name}: one-hot vectors, as wide as the output ({width})")
        return vectors[0].name, width
    raise ModelError(
        f"{graph.name}: no input takes token ids (an integer tensor [batch], [batch, time] or [time, batch]) or one-hot vectors; "
        f"its inputs are {listing(graph.inputs)} and its operators {_operators(graph)}. decode() needs a recurrent "
        "network over tokens; if one of these is the token, pass roles={'token': name}"
    )


def _one_hot_width(graph: Graph, port: Port) -> int | None:
    """The last dimension of a float input, if an output has the same and a recurrent layer or a product reads it."""
    if port.dtype.kind != "f" or not port.shape or len(port.shape) < 2:
        return None
    width = port.shape[-1]
    outputs = [p.shape[-1] for p in graph.outputs if p.shape]
    return width if isinstance(width, int) and width in outputs and len(port.shape) <= 3 else None


def _feeds_embedding(graph: Graph, name: str) -> bool:
    """Does the input select rows of a constant table?"""
    return embedding_rows(graph, name) is not None


def embedding_rows(graph: Graph, name: str) -> int | None:
    """Rows of the constant table that an input selects from (0 where its size is not written down); None where it selects none."""
    todo, seen = [name], set[str]()
    while todo:
        if (tensor := todo.pop()) in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op == "Gather" and node.input(1) == tensor:
                table = graph.constant(_behind_views(graph, node.input(0)))
                if table is not None and table.ndim >= 2 and table.dtype.kind == "f":
                    return int(table.shape[node.attribute("axis", 0)])
            elif node.op == "OneHot" and node.input(0) == tensor:
                return 0
            elif node.op in _INDEX_OPS or (node.op in VIEW_OPS and node.input(0) == tensor):
                todo += node.outputs
    return None


def _behind_views(graph: Graph, name: str) -> str:
    while (node := graph.producer(name)) is not None and node.op in VIEW_OPS and node.op != "Concat":
        name = node.input(0)
    return name


def _auxiliary_kind(graph: Graph, port: Port, given: Mapping[str, Any], notes: list[str]) -> AuxiliaryKind:
    """What to fill an input with that is neither token, state nor latent."""
    for kind in ("source_mask", "source_length"):
        if port.name in names_in(given.get(kind, ())):
            return kind
    lengths = {node.input(4) for node in graph.nodes if node.op in STATE_SLOTS and node.input(4)}
    if any(_behind_views(graph, name) == port.name for name in lengths):
        notes.append(
            f"{port.name} is filled with the number of tokens: it gives a recurrent layer its sequence lengths"
        )
        return "length"
    for kind, names in _AUXILIARY_NAMES.items():
        if names.search(port.name) and (kind == "mask" or port.dtype.kind in "iu"):
            what = {
                "mask": "ones: no token is padding",
                "position": "the token's position",
                "length": "the number of tokens",
            }[kind]
            notes.append(f"{port.name} is filled with {what}: its name")
            return kind
    if port.name in given.get("context", ()) or (port.dtype.kind == "f" and port.shape):
        notes.append(
            f"{port.name} is a context, given by the caller: neither token nor state nor anything that decoding fills"
        )
        return "context"
    raise ModelError(
        f"{graph.name}: nobody feeds the input {port}: it is no token, and no output has its dtype and shape and depends on it, so it is no recurrent state. "
        f"Pass roles={{'constant': {{{port.name!r}: value}}}} for a fixed value, roles={{'context': [{port.name!r}]}} for one that decode() is given, roles={{'source_length': {port.name!r}}} or roles={{'source_mask': {port.name!r}}} for one that tells where a context ends, or roles={{'state': {{{port.name!r}: output}}}}"
    )


def _find_attention(graph: Graph, given: Mapping[str, Any], states: Mapping[str, str], notes: list[str]) -> str | None:
    """The output with the attention weights over a context, where a name tells."""
    if name := given.get("attention"):
        notes.append(f"attention is {name}: given by roles")
        return str(name)
    ports = [p for p in graph.outputs if p.name not in states.values() and p.dtype.kind == "f"]
    named = [p.name for p in ports if _ATTENTION_NAMES.search(p.name)]
    if len(named) != 1 or len(ports) < 2:
        return None
    notes.append(f"attention is {named[0]}: its name")
    return named[0]


def _find_logits(
    graph: Graph, given: Mapping[str, Any], token: str, taken: Container[str | None], notes: list[str]
) -> str:
    if name := given.get("logits"):
        notes.append(f"logits are {name}: given by roles")
        return str(name)
    downstream = graph.descendants(token)
    ports = [p for p in graph.outputs if p.name not in taken and p.dtype.kind == "f" and p.name in downstream]
    layers = [p for p in ports if not shown_slots(graph, p.name)]  # a last state that no input takes back is no logits
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
            "load it beside its decoder, load(decoder, encoder=...), or pass roles={'logits': name}"
        )
    raise ModelError(
        f"{graph.name}: ambiguous: {listing(layers or ports)} could each be the logits; pass roles={{'logits': name}}"
    )


def _is_layer_output(graph: Graph, port: Port) -> bool:
    """Is the output what a recurrent layer gives for every step or at its end, perhaps re-arranged, or its rows in another order?"""
    todo, seen = [port.name], set[str]()
    while todo:
        node = graph.producer(name := todo.pop())
        if node is None:
            return False
        if node.op in STATE_SLOTS or name in seen:
            continue
        if (
            node.op not in VIEW_OPS and node.op != "Gather"
        ):  # torch's packed sequences are sorted, and put back by a Gather
            return False
        seen.add(name)
        todo += node.inputs if node.op == "Concat" else node.inputs[:1]
    return True


def _operators(graph: Graph) -> str:
    ops = sorted({node.op for node in graph.nodes})
    return ", ".join(ops[:12]) + (", ..." if len(ops) > 12 else "")
