"""Makes requests of prompts that come one by one, or that have options of their own: `decoding.Request`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding._types import Ids
from decoding.arguments import seed_of
from decoding.engine.request import Call, EngineRequest
from decoding.engine.search.states import CONTEXT, FINGERPRINT, IDS, PREFIX, START
from decoding.errors import OptionError, shown
from decoding.inputs.contexts import check_contexts
from decoding.inputs.latents import given_latents
from decoding.inputs.options import own_settings
from decoding.inputs.prompts import checked_ids, encode_prompts
from decoding.inputs.requests import check_apart, read_prompts, temperatures
from decoding.model.contract.io import State
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.requests import Request
from decoding.strategies import Greedy, Sample, Strategy

# What a sequence to complete may have of its own: the rest holds for all of them, or makes no sense.
_OF_COMPLETIONS = ("strategy", "seed", "processors")


def has_requests(prompts: Any) -> bool:
    """Return whether some of the prompts are `Request` objects."""
    return isinstance(prompts, Request) or (
        isinstance(prompts, list | tuple) and any(isinstance(prompt, Request) for prompt in prompts)
    )


def requests_of_iterable(model: Model, call: Call, prompts: Any, prefix: Any) -> Iterator[EngineRequest]:
    """Return the requests of an iterable, which may be endless: each prompt is read when its request is taken.

    Raises:
        OptionError: there is no iterable, or an option needs the number of prompts.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise OptionError(
            f"prompts={shown(prompts)}: expected an iterable of prompts, each a string or a sequence of ids"
        )
    if isinstance(call.settings.strategy, Sample) and np.ndim(call.settings.strategy.temperature):
        raise OptionError("Sample(temperature=array): the prompts of an iterable cannot be counted; pass one number")
    return _in_turn(model, call, prompts, prefix)


def _in_turn(model: Model, call: Call, prompts: Iterable[Any], prefix: Any) -> Iterator[EngineRequest]:
    """Yield the request of each prompt; the numbers of their outputs follow each other."""
    first = 0
    for index, prompt in enumerate(prompts):
        made = own_request(model, call, prompt, prefix, index, first)
        first += made.settings.outputs
        yield made


def mixed_requests(
    model: Model, call: Call, prompts: Any, prefix: Any, context: Any, latents: Any
) -> list[EngineRequest]:
    """Return a request for each of the prompts, some of which are `Request` objects.

    Raises:
        OptionError: a prompt or one of its options is wrong; or an option of the call has another number of values than there are prompts.
    """
    each = [prompts] if isinstance(prompts, Request) else list(prompts)
    columns = {"prefix": prefix, "context": context, "latents": latents}
    entries = {name: _entries(name, value, len(each)) for name, value in columns.items()}
    made: list[EngineRequest] = []
    first = 0
    for index, prompt in enumerate(each):
        own = prompt if isinstance(prompt, Request) else Request(prompt)
        common = {name: values[index] for name, values in entries.items() if values is not None}
        made.append(own_request(model, call, own, common.get("prefix"), index, first, common))
        first += made[-1].settings.outputs
    return made


def own_request(
    model: Model,
    call: Call,
    given: Any,
    prefix: Any,
    index: int,
    first: int = 0,
    common: Mapping[str, Any] | None = None,
) -> EngineRequest:
    """Return the request of one prompt, or of a `Request`.

    Args:
        prefix: of the call.
        index, first: the numbers of the request and of its first output in the call.
        common: `context` and `latents` of the call for this prompt.

    Raises:
        OptionError: the prompt or one of its options is wrong; the message names the request by its number.
    """
    own = given if isinstance(given, Request) else Request(given)
    try:
        return _own_request(model, call, own, prefix, index, first, common or {})
    except OptionError as error:
        if given is not own:
            raise
        raise OptionError(f"request {index}: {error}") from error


def sequences_of(given: Any) -> Any:
    """Return the sequences to complete without their own options: the prompts of those that are `Request` objects.

    Raises:
        OptionError: a request has an option that a completion cannot have.
    """
    if not has_requests(given):
        return given
    for index, one in enumerate([given] if isinstance(given, Request) else given):
        if isinstance(one, Request):
            for name in one.given():
                if name not in _OF_COMPLETIONS:
                    raise OptionError(
                        f"sequences[{index}]: a Request to complete takes only {', '.join(_OF_COMPLETIONS)}, not {name}; "
                        f"pass {name} to rollout() if it has it, or leave it out"
                    )
    return [
        one.prompt if isinstance(one, Request) else one for one in ([given] if isinstance(given, Request) else given)
    ]


def with_own_options(model: Model, call: Call, requests: Sequence[EngineRequest], given: Any) -> list[EngineRequest]:
    """Return the requests of sequences to complete with the options of their own that some of them have.

    Raises:
        OptionError: an option is wrong.
    """
    if not has_requests(given):
        return list(requests)
    return [
        _with_own_options(model, call, request, one) if isinstance(one, Request) else request
        for request, one in zip(requests, [given] if isinstance(given, Request) else given, strict=True)
    ]


def _with_own_options(model: Model, call: Call, request: EngineRequest, own: Request) -> EngineRequest:
    try:
        settings = own_settings(model, call, own.options())
        check_temperature(own.strategy or Greedy())
        return replace(
            request,
            settings=settings,
            temperature=request.temperature if own.strategy is None else temperatures(own.strategy, 1)[0],
            seed=request.seed if own.seed is None else seed_of(own.seed),
            own_stream=None if own.seed is None else 0,
        )
    except OptionError as error:
        raise OptionError(f"sequences[{request.index}]: {error}") from error


def _own_request(
    model: Model, call: Call, own: Request, prefix: Any, index: int, first: int, common: Mapping[str, Any]
) -> EngineRequest:
    settings = own_settings(model, call, own.options())
    check_temperature(settings.strategy)
    latents = own.latents if own.latents is not None else common.get("latents")
    given = given_latents(model, _alone(latents), 1, settings.searches_per_request)
    prefix = prefix if own.prefix is None else own.prefix
    if own.state is None:
        context = own.context if own.context is not None else common.get("context")
        read = _from_prompt(model, call, own.prompt, prefix, context, index)
    else:
        read = _from_state(model, own, prefix, settings.searches_per_request)
        given = read.pop("given_latents") | given
    return EngineRequest(
        index=index,
        first=first,
        settings=settings,
        seed=call.seed if own.seed is None else seed_of(own.seed),
        own_stream=None if own.seed is None else 0,
        temperature=temperatures(settings.strategy, 1)[0],
        given_latents=given,
        **read,
    )


def _from_prompt(model: Model, call: Call, prompt: Any, prefix: Any, context: Any, index: int) -> dict[str, Any]:
    """Return what `EngineRequest` has of a prompt and its contexts.

    Raises:
        OptionError: one of them is wrong.
    """
    (start,), (source,) = read_prompts(model, prompt, prefix, first=index, single=True)
    check_apart(model, call, [start])
    given = check_contexts(model, _alone(context), call.step_inputs, 1)
    return {
        "ids": start.ids,
        "start": len(start.ids),
        "prefixes": start.prefixes,
        "source": source,
        "context": {name: values[0] for name, values in given.contexts.items()},
        "states": {name: values[0] for name, values in given.states.items()},
    }


def _from_state(model: Model, own: Request, prefix: Any, searches: int) -> dict[str, Any]:
    """Return what `EngineRequest` has of a state, with the latents of `searches` sequences.

    Raises:
        OptionError: the state is that of another model, or incomplete; or an option is given that the state has already.
    """
    arrays = _checked_state(model, own.state)
    if own.context is not None:
        raise OptionError("state: it has its contexts already; leave context out")
    more = own.prompt if model._network.encoders is None else prefix
    if model._network.encoders is not None and own.prompt is not None:
        raise OptionError(
            "state: it has its source already; leave prompt out, and pass new tokens of the decoder as prefix"
        )
    if model._network.encoders is None and own.prefix is not None:
        raise OptionError(f"prefix: {model.name} has no encoder; pass the new tokens as prompt")
    new = np.zeros(0, np.int64) if more is None else _new_ids(model, more)
    ids = arrays[IDS]
    context = {name.removeprefix(CONTEXT): value for name, value in arrays.items() if name.startswith(CONTEXT)}
    latents = {f.name for f in model.latents}
    return {
        "ids": np.concatenate([ids, new]),
        "read": len(ids) - 1,
        "prefixes": {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)},
        "start": int(arrays[START]) if START in arrays else 0,
        "prefixes_read": True,
        "encoded": True,
        "context": context,
        "states": {s.input: arrays[s.input] for s in model._network.contract.states},
        "given_latents": {name: [value] * searches for name, value in context.items() if name in latents},
    }


def _new_ids(model: Model, prompt: Any) -> Ids:
    """Return the ids of a text or of an id sequence, without BOS; there may be none."""
    if isinstance(prompt, str):
        return encode_prompts(model, prompt, bos=False)[0] if prompt else np.zeros(0, np.int64)
    return checked_ids(model, prompt, "prompt")


def _checked_state(model: Model, state: Any) -> dict[str, Array]:
    """Return the arrays of a state.

    Raises:
        OptionError: it is no mapping, lacks an array, is another model's, or has an array of a wrong shape.
    """
    if not isinstance(state, Mapping):
        raise OptionError(
            f"state={shown(state)}: expected the `state` of a hypothesis, or numpy.load() of one saved by numpy.savez"
        )
    arrays = {str(name): np.asarray(value) for name, value in state.items()}
    wanted = {s.input: _sizes(s) for s in model._network.contract.states}
    names = (IDS, FINGERPRINT, *wanted)
    own = arrays.get(FINGERPRINT)
    if own is not None and str(own) != model.fingerprint:
        raise OptionError(
            f"state: it is of another model (fingerprint {str(own)[:12]}, {model.name} has {model.fingerprint[:12]}); "
            "decode prompt and output with this model instead"
        )
    if missing := [name for name in names if name not in arrays]:
        raise OptionError(
            f"state: it lacks {missing[0]!r}; pass all arrays of a hypothesis's `state` (return_state=True)"
        )
    for name, sizes in wanted.items():
        found = list(arrays[name].shape)
        if len(found) != len(sizes) or any(size not in (None, own) for size, own in zip(sizes, found, strict=True)):
            raise OptionError(f"state[{name!r}] has shape {found}: expected {sizes}")
    if not arrays[IDS].size:
        raise OptionError(f"state[{IDS!r}] is empty: expected the ids of prompt and output")
    ids = {name: value for name, value in arrays.items() if name == IDS or name.startswith(PREFIX)}
    arrays |= {name: checked_ids(model, value, f"state[{name!r}]") for name, value in ids.items()}
    if len(ids) > 1 and not (START in arrays and arrays[START].shape == () and 0 < arrays[START] <= len(arrays[IDS])):
        raise OptionError(
            f"state[{START!r}]: expected a number from 1 to {len(arrays[IDS])}, of the ids that are a prompt"
        )
    return arrays


def _sizes(state: State) -> list[int | None]:
    """Return the sizes of a state without its batch axis; None for one that differs from row to row."""
    sizes = [None if axis == state.free_axis else size for axis, size in enumerate(state.initial.shape)]
    return sizes[: state.batch_axis] + sizes[state.batch_axis + 1 :]


def check_temperature(strategy: Strategy) -> None:
    """Refuse a temperature for each of many prompts, where there is one.

    Raises:
        OptionError: the temperature is an array.
    """
    if isinstance(strategy, Sample) and np.ndim(strategy.temperature):
        raise OptionError(
            f"Sample(temperature=array of {np.size(strategy.temperature)}): one request has one temperature; pass one number"
        )


def _alone(values: Any) -> Any:
    """Return what is given for one prompt as what is given for a list of one."""
    if values is None:
        return None
    return {name: [value] for name, value in values.items()} if isinstance(values, Mapping) else [values]


def _entries(name: str, value: Any, count: int) -> list[Any] | None:
    """Return the entry of each prompt in an option of the call that has one for each."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        columns = {key: _entries(f"{name}[{key!r}]", values, count) or [] for key, values in value.items()}
        return [{key: values[i] for key, values in columns.items()} for i in range(count)]
    if name.startswith("prefix") and (
        isinstance(value, str) or (np.ndim(value) == 1 and not isinstance(value[0], str))
    ):
        return [value] * count
    if not hasattr(value, "__len__") or len(value) != count:
        found = len(value) if hasattr(value, "__len__") else type(value).__name__
        raise OptionError(f"{name}: found {found} entries; expected {count}, one for each prompt or Request")
    return list(value)
