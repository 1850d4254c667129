"""Roles that the caller gives for a model and its encoders together, split between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decoding.errors import OptionError, shown
from decoding.model.encoders.encoder import ENCODER_ROLES
from decoding.model.graph.graph import Graph
from decoding.model.roles.given import check_axes, check_names, file_roles, names_in


def split_roles(
    roles: Mapping[str, Any], decoder: Graph, encoders: Sequence[Graph]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The decoder's roles and each encoder's: a role that names an encoder's input goes to that encoder.

    Raises:
        OptionError: an encoder's metadata has an unknown role, or names an input or axis that it does not have.
        ModelError: an encoder's metadata has a role of another kind.
    """
    mine, theirs = dict(roles), [file_roles(graph) for graph in encoders]
    for graph, given in zip(encoders, theirs, strict=True):
        if unknown := sorted(set(given) - set(ENCODER_ROLES)):
            raise OptionError(
                f"{graph.name}: metadata 'decoding.roles' has the unknown key {shown(unknown[0])}; an encoder's are {', '.join(ENCODER_ROLES)}"
            )
        for key in ENCODER_ROLES:
            check_names(graph, key, names_in(given.get(key)), [p.name for p in graph.inputs])
    inputs = [{p.name for p in graph.inputs} for graph in encoders]
    elsewhere = set().union(*inputs) - {p.name for p in decoder.inputs}
    for key in ENCODER_ROLES:
        named = names_in(roles.get(key, ()))
        for own, given in zip(inputs, theirs, strict=True):
            if names := [name for name in named if name in own]:
                given[key] = _part(roles[key], names)
        left = [name for name in named if name not in elsewhere]
        if len(left) < len(named):
            mine[key] = _part(roles[key], left)
    for graph, given in zip(encoders, theirs, strict=True):
        check_axes(graph, given.get("batch_axis", {}))
    return mine, theirs


def _part(role: Any, names: Sequence[str]) -> Any:
    """The part of a role that is about these inputs."""
    return {name: role[name] for name in names} if isinstance(role, Mapping) else list(names)
