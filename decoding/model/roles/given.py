"""Roles that are given: by the caller in `roles=`, or by the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.model.graph.graph import Graph

ROLE_KEYS = ("token", "logits", "state", "output", "batch_axis", "constant", "context", "attention", "window", "pad",
             "encoder", "latent", "source_mask", "source_length")  # fmt: skip


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
        *((key, names_in(merged.get(key)), ins) for key in ("token", "batch_axis", "constant", "context", "latent", "source_mask", "source_length")),
        *((key, names_in(merged.get(key)), outs) for key in ("logits", "attention")),
        ("state", list(states), ins),
        ("state", list(states.values()), outs),
    ):  # fmt: skip
        for name in names:
            if name not in known:
                raise OptionError(f"roles[{key!r}]: {graph.name} has no {name!r} there; it has {', '.join(known)}")
    if merged.get("output", "logits") not in ("logits", "probs", "logprobs"):
        raise OptionError(f"roles['output']={merged['output']!r}: expected 'logits', 'probs' or 'logprobs'")
    return merged


def names_in(value: Any) -> list[str]:
    """The inputs or outputs that a role names: a string, the entries of a list or the keys of a dict.

    >>> names_in("mask"), names_in({"mask": "memory"}), names_in(None)
    (['mask'], ['mask'], [])
    """
    return [value] if isinstance(value, str) else list(value or ())


def json_metadata(graph: Graph, key: str, default: Any) -> Any:
    """A JSON value of the file's metadata, or `default` where there is none.

    Raises:
        ModelError: the value is not JSON.
    """
    text = graph.metadata.get(key)
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"{graph.name}: metadata {key!r} is not JSON ({error}); write it with json.dumps") from error
