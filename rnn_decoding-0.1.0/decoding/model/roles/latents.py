"""Finding latents: inputs that take noise, which the engine draws unless the caller gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.model.contract.io import Draw
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Port

LATENT_NAMES = re.compile(r"(?:^|[_./:])(?:z|noise|latents?|eps|epsilon)(?:$|[_./:\d])", re.I)
DISTRIBUTIONS, EVERY = ("normal", "uniform"), ("sequence", "step")


def find_latents(
    graph: Graph, given: Mapping[str, Any], ports: Sequence[Port], token: str | None, notes: list[str]
) -> dict[str, Draw]:
    """How each latent among `ports` is drawn: as `roles["latent"]` says, else from a standard normal if its name is a latent's.

    A latent [batch, time, ...] whose time is the token's is drawn anew at every step.

    Args:
        token: the token's input; None for a graph without one.

    Raises:
        OptionError: `roles["latent"]` does not describe a draw, or names an input that cannot be drawn.
        ModelError: the file does not declare a size of a latent.
    """
    asked = given.get("latent", {})
    if not isinstance(asked, Mapping):
        raise OptionError(f"roles['latent']={asked!r}: expected {{input: 'normal' or 'uniform'}}")
    shapes = {p.name: p.shape for p in graph.inputs}
    time = (shapes[token] or (None, None))[1:2] if token is not None else ()
    draws = {}
    for port in ports:
        if port.dtype.kind != "f" or any(
            port.name in given.get(role, ()) for role in ("context", "step_context", "position")
        ):
            if port.name in asked:
                raise OptionError(
                    f"roles['latent']: {port} cannot be drawn: a latent is a floating-point input, and no context"
                )
            continue
        if port.name not in asked and not (LATENT_NAMES.search(port.name) and port.shape):
            continue
        timed = len(port.shape or ()) > 2 and isinstance(port.shape[1], str) and port.shape[1:2] == time  # type: ignore[index]
        draw = _parse(port.name, asked.get(port.name, "normal"), timed)
        sizes = (port.shape or (None, None))[2 if timed else 1 :]
        if not all(isinstance(size, int) for size in sizes):
            raise ModelError(
                f"{graph.name}: the latent {port} cannot be drawn, since a size after its batch is not fixed; export it with fixed sizes, or pass "
                f"roles={{'context': [{port.name!r}]}} and give it"
            )
        how = (
            "given by roles"
            if port.name in asked
            else "its name; roles={'latent': {...: 'uniform'}} or roles={'context': [...]} say otherwise"
        )
        notes.append(f"{port.name} is a latent, {draw}: {how}")
        draws[port.name] = draw
    return draws


def _parse(name: str, value: Any, timed: bool) -> Draw:
    """The draw that an entry of `roles["latent"]` describes."""
    parts = {"distribution": value} if isinstance(value, str) else value
    known = isinstance(parts, Mapping) and set(parts) <= {"distribution", "every"}
    draw = Draw(**{"every": "step" if timed else "sequence", **parts}) if known else None
    if draw is None or draw.distribution not in DISTRIBUTIONS or draw.every not in EVERY:
        raise OptionError(
            f"roles['latent'][{name!r}]={value!r}: expected 'normal' or 'uniform', or {{'distribution': 'normal' or 'uniform', "
            "'every': 'sequence' or 'step'}"
        )
    if timed and draw.every == "sequence":
        raise OptionError(
            f"roles['latent'][{name!r}]={value!r}: the input has a value for each token, [batch, time, ...]; 'every' is 'step'"
        )
    return draw
