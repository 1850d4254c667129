"""Finding the role of every input and output of a graph. Given roles come first, then structure, names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryKind, Draw
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import NO_BFLOAT16, STATE_SLOTS
from decoding.model.roles.auxiliary_inputs import find_kinds
from decoding.model.roles.given import names_in
from decoding.model.roles.latents import find_latents
from decoding.model.roles.masks import find_counters
from decoding.model.roles.outputs import find_attention, find_logits
from decoding.model.roles.state_pairs import pair_states
from decoding.model.roles.token import find_token


@dataclass
class Roles:
    """The roles found in a graph, with the evidence.

    Attributes:
        states: the output with the next value of each state input.
        auxiliary_inputs: the kind of each input that is neither token nor state.
        attention: the output with the weights over the source; None where there is none.
        one_hot: width of the token's one-hot vectors; None where it takes ids.
        output: "logits", "probs" or "logprobs" where that is known.
        batch_axis: of the inputs for which it is given.
        notes: each decision with its evidence, one sentence each.
        sources: the context whose padding each source_mask and source_length tells.
        draws: how each latent is drawn.
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


def find_roles(graph: Graph, given: Mapping[str, Any]) -> Roles:
    """Find the token, the states that the graph exposes, the auxiliary inputs, the attention weights and the logits.

    Raises:
        ModelError: a role is missing or ambiguous; the message lists what was found and what to pass.
    """
    if graph.bfloat16_ports:
        raise ModelError(f"{graph.name}: {graph.bfloat16_ports[0]}: {NO_BFLOAT16}")
    notes: list[str] = []
    token, one_hot = find_token(graph, given, notes)
    ins = [p for p in graph.inputs if p.name != token]
    for port in ins:
        if not graph.consumers(port.name):
            raise ModelError(
                f"{graph.name}: the input {port.name} is used by nothing. An exporter that is given the same tensor for two inputs merges them: "
                "export again with two tensors, one for each state"
            )
    roles = ("state", "context", "step_context", "position", "latent", "source_mask", "source_length")
    taken = {name for role in roles for name in names_in(given.get(role))}
    free = [p for p in ins if p.name not in taken]
    counters = find_counters(graph, next(p for p in graph.inputs if p.name == token), free)
    if "state" in given:
        states = dict(given["state"])
        notes.append("states: given by roles")
    else:
        free = [p for p in free if p.name not in counters]
        no_states = {given.get("logits"), *counters.values()}
        states = pair_states(graph, free, [p for p in graph.outputs if p.name not in no_states], notes)
    left = [p for p in ins if p.name not in states]
    draws = find_latents(graph, given, left, token, notes)
    kinds, sources = find_kinds(graph, given, left, token, draws, notes, counters)
    attention = find_attention(graph, given, states, notes)
    logits = find_logits(graph, given, token, {*states.values(), *counters.values(), attention}, notes)
    if not any(token in data_ancestors(graph, name) for name in (logits, *states.values())):
        raise ModelError(
            f"{graph.name}: neither the logits {logits} nor a state depend on the values of the token {token}; export the network again, or pass "
            "other roles={'token': name, 'logits': name}"
        )
    return Roles(
        token=token,
        logits=logits,
        states=states,
        auxiliary_inputs=kinds,
        attention=attention,
        one_hot=one_hot,
        output=given.get("output"),
        batch_axis=dict(given.get("batch_axis", {})),
        notes=notes,
        sources=sources,
        draws=draws,
    )


def recurrent_path(graph: Graph, token: str, logits: str) -> list[Node]:
    """The recurrent layers, Loops and Scans between the token and the logits, in the order of execution."""
    path = graph.descendants(token) & graph.ancestors(logits)
    return [node for node in graph.nodes if (node.op in STATE_SLOTS or node.carried()) and path & set(node.outputs)]


def data_ancestors(graph: Graph, name: str) -> set[str]:
    """The tensors that a tensor's values depend on; its shape may depend on more."""
    return graph.ancestors(name, stop_ops=("Shape", "Size"))
