"""Checks the values that the caller gives for the model's latents: latents=."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding.arguments import named_values, numbers
from decoding.engine.latents import Latents
from decoding.engine.request import Call, EngineRequest
from decoding.errors import OptionError
from decoding.inputs.members import for_members
from decoding.model.contract.draws import one_value
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.types import Array
from decoding.model.model import Model


def with_latents(
    model: Model, call: Call, requests: list[EngineRequest], latents: Any
) -> tuple[Call, list[EngineRequest]]:
    """Return the call with the model's latents and the requests with those that are given; both as they were where the model has none.

    Args:
        latents: of the call; see `given_latents`.

    Raises:
        OptionError: the model has no latents, or the values do not fit them.
    """
    searches = call.settings.searches_per_request
    given = given_latents(model, latents, len(requests), searches)
    if given:
        each = [
            {name: values[i * searches : (i + 1) * searches] for name, values in given.items()}
            for i in range(len(requests))
        ]
        requests = [replace(request, given_latents=own) for request, own in zip(requests, each, strict=True)]
    return (replace(call, latents=Latents(model._network.latent_families)) if model.latents else call), requests


def given_latents(model: Model, latents: Any, prompts: int, outputs: int) -> dict[str, list[Array]]:
    """Return the caller's latents by input name, one value for each sequence.

    Args:
        latents: {input: values}, the values alone where there is one latent, or a list of what hypotheses have as `latent`.
        outputs: sequences of a prompt that have latents of their own.

    Raises:
        OptionError: the model has no latents, a name is unknown, there is a wrong number of values, or one has a wrong shape.
    """
    if latents is None:
        return {}
    if not model.latents:
        raise OptionError(
            f"latents: {model.name} has none; pass roles={{'latent': {{input: 'normal'}}}} to load() if an input is one"
        )
    if isinstance(latents, Sequence) and latents and all(isinstance(one, Mapping) for one in latents):
        latents = {name: [one[name] for one in latents] for name in latents[0]}
    inputs = {f.name: f for f in model.latents}
    latents = for_members(model, latents, inputs)
    given = named_values("latents", latents, model.name, {name: name for name in inputs})
    return {name: _for_sequences(inputs[name], values, prompts, outputs) for name, values in given.items()}


def _for_sequences(aux: AuxiliaryInput, values: Any, prompts: int, outputs: int) -> list[Array]:
    """Return a latent's values, one for each sequence, from as many, or from one for each prompt."""
    name, counts = f"latents[{aux.name!r}]", dict.fromkeys([prompts, prompts * outputs])
    if not hasattr(values, "__len__") or len(values) not in counts:
        found = len(values) if hasattr(values, "__len__") else type(values).__name__
        raise OptionError(
            f"{name}: found {found} values; expected {' or '.join(map(str, counts))}, one for each prompt or sequence"
        )
    own = [_latent(aux, value, f"{name}[{i}]") for i, value in enumerate(values)]
    return own if len(own) == prompts * outputs else [value for value in own for _ in range(outputs)]


def _latent(aux: AuxiliaryInput, value: Any, name: str) -> Array:
    """Return one value of a latent: an array of the input's sizes, [steps, ...] where it is drawn anew at every step."""
    array, sizes = numbers(name, value, aux.dtype), one_value(aux)
    if (array.shape[1:] if aux.draw.every == "step" else array.shape) != sizes:
        wanted = ", ".join([*(["steps"] if aux.draw.every == "step" else []), *map(str, sizes)])
        raise OptionError(f"{name} has shape {list(array.shape)}: expected [{wanted}]")
    if not np.isfinite(array).all():
        raise OptionError(f"{name} holds NaN or infinite values: expected finite numbers")
    return array
