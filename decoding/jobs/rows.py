"""Makes the `Request` of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from textwrap import shorten
from typing import Any

import numpy as np

from decoding.errors import OptionError, shown
from decoding.jobs.keys import row_seed
from decoding.jobs.read import Row
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.model import Model
from decoding.requests import Request
from decoding.strategies import Beam, Greedy, MustContain, Sample, Strategy, TopN

_STRATEGIES = {kind.__name__: kind for kind in (Greedy, Sample, TopN, Beam)}
# Fields of a request that hold Python objects, or ask for what no file of results has.
_NOT_IN_FILES = ("processors", "state", "return_state")


def request_of(model: Model, row: Row, seed: int, *, only_text: bool = False) -> Request:
    """Return the request of a row, with a seed of its own: the row's, or one from the job's seed and the row's id.

    Args:
        only_text: the input has texts alone: where the model reads ids, they are words.

    Raises:
        OptionError: a field is unknown or wrong.
    """
    assert row.id is not None
    own = row.value if isinstance(row.value, Request) else Request(**_fields(model, row.value, only_text))
    request = Request(own.prompt, **{name: getattr(own, name) for name in Request.__slots__ if name != "prompt"})
    if request.seed is None:
        request.seed = row_seed(seed, row.id)
    if request.return_state:
        raise OptionError("return_state: the output of a job has no states; decode() returns them")
    if request.return_member_logprobs:
        raise OptionError("return_member_logprobs: the output of a job has none; decode() returns them")
    return request


def prompt_of(model: Model, text: Any) -> Any:
    """Return a text as a prompt: as it is, or as ids where the model (or its encoder) has no vocabulary.

    Raises:
        OptionError: its words are no ids.
    """
    if not isinstance(text, str) or _reads_text(model):
        return text
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        raise OptionError(
            f"{shorten(text, 40)!r}: {model.name} has no vocabulary; give ids split by spaces, such as '3 17 4'"
        ) from None


def _reads_text(model: Model) -> bool:
    """Return whether prompts are texts for the model, its encoder, or the encoder of a member."""
    encoders = model._network.encoders
    if encoders is None:
        return model.tokenizer is not None
    if isinstance(model, Ensemble):
        return any(_reads_text(member) for member in model.members.values() if member._network.encoders is not None)
    return any(stage.tokenizer is not None for stage in encoders)


def _fields(model: Model, value: Any, only_text: bool) -> dict[str, Any]:
    """Return the arguments of `Request` for what a row has."""
    found = dict(value) if isinstance(value, Mapping) else {"prompt": value}
    if only_text:
        found["prompt"] = prompt_of(model, found["prompt"])
    if unusable := [name for name in _NOT_IN_FILES if name in found]:
        raise OptionError(f"{unusable[0]}: a row cannot have it; pass requests from Python to decoding.jobs.run()")
    if found.get("strategy") is not None:
        found["strategy"] = strategy_of(found["strategy"])
    for name in ("context", "latents"):
        if found.get(name) is not None:
            found[name] = arrays_of(name, found[name])
    return found


def strategy_of(value: Any) -> Strategy:
    """Return the strategy that JSON names: ``"Greedy"``, or ``{"Sample": {"temperature": 0.7}}``.

    Raises:
        OptionError: there is no such strategy, or it has no such field.
    """
    if isinstance(value, Greedy | Sample | TopN | Beam):
        return value
    given = {value: {}} if isinstance(value, str) else value
    name, options = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (None, None)
    if name not in _STRATEGIES or not isinstance(options, Mapping):
        raise OptionError(
            f'strategy={shown(value)}: expected one of {", ".join(_STRATEGIES)}, or an object such as {{"Sample": {{"temperature": 0.7}}}}'
        )
    kind = _STRATEGIES[name]
    known = [field.name for field in fields(kind)]
    if unknown := [option for option in options if option not in known]:
        raise OptionError(f"strategy={name}({unknown[0]}): no such field; it has {', '.join(known) or 'none'}")
    own = dict(options)
    if own.get("must_contain") is not None and not isinstance(own["must_contain"], MustContain):
        own["must_contain"] = MustContain.of_json(own["must_contain"])
    try:
        made: Strategy = kind(**own)
    except TypeError as error:  # one that it needs is missing
        raise OptionError(f"strategy={name}: {error}") from error
    return made


def arrays_of(name: str, value: Any) -> Any:
    """Return the lists of a field as arrays.

    Raises:
        OptionError: they are none.
    """
    try:
        if isinstance(value, Mapping):
            return {key: np.asarray(own) for key, own in value.items()}
        return np.asarray(value)
    except ValueError as error:
        raise OptionError(f"{name}: not an array: {error}") from error
