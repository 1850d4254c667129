"""Checks the options of decode() and similar functions, and fills in defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np

from decoding._types import FromModel, Ids, Processors, StepInputs
from decoding.arguments import seed_of
from decoding.constraints import BoundConstraint, Constraint, spelling_of
from decoding.engine.request import Call, Settings, strategy_key
from decoding.errors import OptionError, check_flag, shown, whole_number
from decoding.inputs.contexts import check_step_inputs
from decoding.inputs.prompts import checked_ids
from decoding.inputs.sizes import check_memory
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.model import Model
from decoding.processors import TokenProcessor
from decoding.strategies import Beam, Greedy, Sample, Strategy, TopN

# Rows that run together unless the caller says otherwise; see docs/architecture.md for the measurement.
DEFAULT_BATCH_SIZE = 128
DEFAULT_MAX_NEW_TOKENS = 256
# Settings of their own that are kept for the requests to come.
_SETTINGS_KEPT = 1024


class Options(TypedDict, total=False):
    """The keyword arguments that decode(), stream() and decode_iter() share; decode() explains them."""

    max_new_tokens: int | None
    min_new_tokens: int
    eos_token_id: int | Sequence[int] | FromModel | None
    stop: str | Sequence[str | int | Sequence[int]]
    num_return_sequences: int
    seed: int | None
    processors: Processors
    logprobs: int
    batch_size: int | None
    step_inputs: StepInputs | None
    return_attention: bool
    return_state: bool
    return_member_logprobs: bool


def make_call(model: Model, strategy: Strategy, *, lenient: bool = False, **options: Unpack[Options]) -> Call:
    """Return what holds for every request of a call: each option checked by itself and against the others.

    Args:
        lenient: the settings of the call may not fit each other, as requests have options of their own; `check_settings` is
            for those that are used.

    Raises:
        OptionError: names the option, what was found and what was expected.
    """
    read = {name: values for name, values in options.items() if name in _SETTINGS}
    settings = _with_bound(model, Settings(**_read(model, {**_DEFAULTS, **read, "strategy": strategy})))
    if not lenient:
        check_settings(model, settings)
    step_inputs = check_step_inputs(model, options.get("step_inputs"))
    _check_reading_again(settings, step_inputs)
    return Call(
        settings=settings,
        seed=seed_of(options.get("seed")),
        batch_size=_batch_size(options.get("batch_size")),
        tokenizer=model.tokenizer,
        step_inputs=step_inputs,
        attention=settings.return_attention,
    )


def own_settings(model: Model, call: Call, options: Mapping[str, Any]) -> Settings:
    """Return the settings of a request that has options of its own: one object for all that have the same.

    Raises:
        OptionError: as `make_call()`.
    """
    if not options:
        return call.settings
    try:
        key: object = tuple(
            (name, *(strategy_key(value) if name == "strategy" else (type(value), value)))
            for name, value in options.items()
        )
        known = call.own.get(key)
    except TypeError:  # a list, say, or what is no strategy
        key, known = None, None
    if known is not None:
        return known
    own = _with_bound(model, replace(call.settings, **_read(model, options)))
    check_settings(model, own)
    _check_reading_again(own, call.step_inputs)
    check_memory(model, call, 1, None, settings=own)
    if key is not None:
        if len(call.own) == _SETTINGS_KEPT:
            call.own.clear()
        call.own[key] = own
    return own


def check_settings(model: Model, settings: Settings) -> None:
    """Check options against each other.

    Raises:
        OptionError: two of them do not go together, or one does not go with the model.
    """
    _check_outputs(settings)
    _check_lengths(settings)
    _check_logprobs(model, settings)
    _check_attention(model, settings)
    _check_state(model, settings)
    _check_phrases(settings)
    _check_member_logprobs(model, settings)


def _read(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Settings` for the given options, each checked by itself."""
    fields: dict[str, Any] = {}
    for name, value in options.items():
        fields |= _SETTINGS[name](model, value)
    return fields


def _strategy(model: Model, strategy: Any) -> dict[str, Any]:
    if not isinstance(strategy, Greedy | Sample | TopN | Beam):
        raise OptionError(
            f"strategy={shown(strategy)}: expected a strategy object such as Greedy() or Sample(temperature=0.8)"
        )
    phrases = strategy.must_contain.phrases if isinstance(strategy, Beam) and strategy.must_contain else ()
    return {"strategy": strategy, "phrases": tuple(_phrase(model, phrase) for phrase in phrases)}


def _phrase(model: Model, phrase: str | Sequence[int]) -> tuple[int, ...]:
    """Return the ids of a phrase that outputs must contain."""
    if isinstance(phrase, str):
        if model.tokenizer is None:
            raise OptionError(
                f"MustContain(phrases={shown(phrase)}): {model.name} has no vocabulary; give ids, or load(..., tokenizer=...)"
            )
        try:
            phrase = model.tokenizer.encode(phrase)
        except OptionError as error:
            raise OptionError(f"MustContain(phrases={shown(phrase)}): {error}") from error
    ids: list[int] = checked_ids(model, phrase, "MustContain(phrases").tolist()
    return tuple(ids)


def check_names(function: str, options: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that the function does not have."""
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise OptionError(
            f"{function}() has no option {shown(unknown[0])}; it has {', '.join(Options.__annotations__)}"
        )


def _check_outputs(settings: Settings) -> None:
    """Refuse more outputs than the strategy has."""
    strategy, outputs = settings.strategy, settings.outputs
    if isinstance(strategy, Greedy) and outputs > 1:
        raise OptionError(
            f"num_return_sequences={outputs}: Greedy() has one output for each prompt; use Sample() or Beam() for several"
        )
    if isinstance(strategy, Beam) and outputs > strategy.num_beams:
        raise OptionError(
            f"num_return_sequences={outputs}: more than the num_beams={strategy.num_beams} hypotheses that Beam keeps"
        )


def _check_lengths(settings: Settings) -> None:
    """Refuse a shortest output that is longer than the longest."""
    if settings.min_new_tokens > settings.max_new_tokens:
        raise OptionError(
            f"min_new_tokens={settings.min_new_tokens}: more than max_new_tokens={settings.max_new_tokens}"
        )


def _check_logprobs(model: Model, settings: Settings) -> None:
    """Refuse more log-probabilities than there are tokens, and any with a search, which does not keep them."""
    if settings.top_logprobs > model.vocab_size:
        raise OptionError(f"logprobs={settings.top_logprobs}: the model has only {model.vocab_size} tokens")
    if settings.top_logprobs and settings.strategy.searches_together:
        raise OptionError(
            f"logprobs={settings.top_logprobs}: not with {type(settings.strategy).__name__} that searches; use Greedy, Sample or TopN"
        )


def _check_attention(model: Model, settings: Settings) -> None:
    """Refuse what needs attention weights where the model gives none, or the search does not keep them."""
    covers = isinstance(settings.strategy, Beam) and settings.strategy.coverage_penalty != 0
    if (settings.return_attention or covers) and model._network.contract.attention is None:
        option = "return_attention=True" if settings.return_attention else "Beam(coverage_penalty=...)"
        if isinstance(model, Ensemble):
            members = ", ".join(name for name, m in model.members.items() if m._network.contract.attention is not None)
            raise OptionError(
                f"{option}: {model.name} is an ensemble, whose members with attention ({members or 'none'}) each have their own source. To get the "
                "weights of a member, decode() with that member alone, with the output as teacher= and teacher_ratio=1"
            )
        raise OptionError(
            f"{option}: {model.name} has no attention output; export one step with its weights over the source, [batch, source], as an output "
            "(decoding.export.torch_pair(states=...) does), and pass roles={'attention': name} to load() if its name does not say so"
        )
    if settings.return_attention and isinstance(settings.strategy, Sample) and not settings.strategy.replacement:
        raise OptionError("return_attention=True: not with Sample(replacement=False); use another strategy")


def _check_state(model: Model, settings: Settings) -> None:
    """Refuse to return the state of a model that draws latents anew at every step: they are no part of a state."""
    if settings.return_state and any(f.draw.every == "step" for f in model.latents):
        raise OptionError(
            f"return_state=True: {model.name} draws latents at every step, so its state is not enough to continue an output; "
            "decode the prompt and the output again"
        )


def _check_phrases(settings: Settings) -> None:
    """Refuse phrases that no output can have."""
    longest = max((len(phrase) for phrase in settings.phrases), default=0)
    if longest > settings.max_new_tokens:
        raise OptionError(f"max_new_tokens={settings.max_new_tokens}: a phrase of MustContain has {longest} tokens")
    for phrase in settings.phrases:
        if ends := set(phrase) & set(settings.eos):
            raise OptionError(f"MustContain(phrases): the ids {list(phrase)} have {min(ends)}, which ends an output")


def _check_member_logprobs(model: Model, settings: Settings) -> None:
    """Refuse the scores of members where there are none."""
    if settings.return_member_logprobs and not isinstance(model, Ensemble):
        raise OptionError(
            f"return_member_logprobs=True: {model.name} has no members; pass an Ensemble, or read token_logprobs"
        )


def _check_reading_again(settings: Settings, step_inputs: StepInputs | None) -> None:
    """Refuse to read outputs again with inputs that were computed while they were made."""
    if settings.return_member_logprobs and step_inputs is not None:
        raise OptionError(
            "return_member_logprobs=True: not with step_inputs=, as the members read the outputs once more; pass the values as context="
        )


def _longest(model: Model, max_new_tokens: Any) -> int:
    """Return the longest output: the caller's, else the model's own, else a default."""
    if max_new_tokens is None:
        return model.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    return whole_number("max_new_tokens", max_new_tokens, 1, below=2**31)


def _batch_size(batch_size: Any) -> int:
    return DEFAULT_BATCH_SIZE if batch_size is None else whole_number("batch_size", batch_size, 1, below=2**31)


def _eos(model: Model, eos_token_id: Any) -> tuple[int, ...]:
    """Return the ids that end a sequence: the caller's, or the model's."""
    if eos_token_id is None:
        return ()
    if isinstance(eos_token_id, str) and eos_token_id == "model":
        return model.eos_token_id
    is_array = hasattr(eos_token_id, "__array__") and not isinstance(eos_token_id, type)
    given = np.asarray(eos_token_id) if is_array else eos_token_id
    many = given.ndim > 0 if is_array else isinstance(given, list | tuple | range)
    ids = tuple(given) if many else (eos_token_id,)
    for token in ids:
        if whole_number("eos_token_id", token, 0) >= model.vocab_size:
            raise OptionError(f"eos_token_id={token}: the model's ids go from 0 to {model.vocab_size - 1}")
    return tuple(int(token) for token in ids)


def _stops(model: Model, stop: Any) -> tuple[tuple[Ids, ...], tuple[str, ...]]:
    """Return the stop sequences of ids, and the stop strings."""
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, bytes | type) or not isinstance(stops, Iterable) or getattr(stops, "ndim", 1) == 0:
        raise OptionError(f"stop={shown(stop)}: expected a string, or a list of strings and id sequences")
    stops = list(stops)
    texts = tuple(s for s in stops if isinstance(s, str))
    if texts and model.tokenizer is None:
        raise OptionError(
            f"stop={texts[0]!r}: {model.name} has no vocabulary; give stops as ids, or load(..., tokenizer=...)"
        )
    ids = tuple(
        checked_ids(model, [s] if isinstance(s, int | np.integer) else s, "stop")
        for s in stops
        if not isinstance(s, str)
    )
    if "" in texts or any(not len(i) for i in ids):
        raise OptionError("stop: an empty stop sequence would end every output at once; leave it out")
    return ids, texts


def _with_bound(model: Model, settings: Settings) -> Settings:
    """Return settings whose constraints are over the tokens of the model, and end with the EOS of the settings.

    Raises:
        OptionError: a constraint is wrong, or the model's vocabulary cannot spell its texts.
    """
    if not any(isinstance(p, Constraint | BoundConstraint) for p in settings.processors):
        return settings
    if model.tokenizer is None:
        raise OptionError(
            f"processors: {model.name} has no vocabulary, and constraints are about text; pass load(..., tokenizer=...)"
        )
    special = (model.bos_token_id, model.pad_token_id, *model.eos_token_id)
    spelling = spelling_of(model.tokenizer, model.vocab_size, frozenset(i for i in special if i is not None))
    bound = [p.bound(spelling, settings.eos) if isinstance(p, Constraint) else p for p in settings.processors]
    return replace(settings, processors=tuple(bound))


def _processors(model: Model, processors: Any) -> tuple[Callable[..., None] | Constraint, ...]:
    """Return the processors, each a callable or a constraint; a class that was not called is the usual mistake.

    Raises:
        OptionError: one is neither, or names a token that the model does not have.
    """
    if callable(processors) or not isinstance(processors, Iterable) or getattr(processors, "ndim", 1) == 0:
        raise OptionError(f"processors={shown(processors)}: expected a list of callables f(history, logits)")
    given = tuple(processors)
    for index, processor in enumerate(given):
        if isinstance(processor, Constraint):
            continue
        if isinstance(processor, TokenProcessor):
            checked_ids(model, processor.ids, f"processors[{index}] ({type(processor).__name__})")
        if not callable(processor):
            raise OptionError(f"processors: {shown(processor)} is not a callable f(history, logits)")
        if isinstance(processor, type):
            raise OptionError(
                f"processors: {processor.__name__} is a class; pass an object of it, {processor.__name__}(...)"
            )
    return given


# For each option of a request, the fields of `Settings` that it sets.
_SETTINGS: Mapping[str, Callable[[Model, Any], dict[str, Any]]] = {
    "strategy": _strategy,
    "num_return_sequences": lambda _, value: {"outputs": whole_number("num_return_sequences", value, 1, below=2**31)},
    "eos_token_id": lambda model, value: {"eos": _eos(model, value)},
    "stop": lambda model, value: dict(zip(("stop", "stop_strings"), _stops(model, value), strict=True)),
    "min_new_tokens": lambda _, value: {"min_new_tokens": whole_number("min_new_tokens", value, 0)},
    "max_new_tokens": lambda model, value: {"max_new_tokens": _longest(model, value)},
    "processors": lambda model, value: {"processors": _processors(model, value)},
    "logprobs": lambda _, value: {"top_logprobs": whole_number("logprobs", value, 0)},
    "return_attention": lambda _, value: {"return_attention": check_flag("return_attention", value)},
    "return_state": lambda _, value: {"return_state": check_flag("return_state", value)},
    "return_member_logprobs": lambda _, value: {"return_member_logprobs": check_flag("return_member_logprobs", value)},
}
_DEFAULTS: Mapping[str, Any] = {
    "num_return_sequences": 1,
    "eos_token_id": "model",
    "stop": (),
    "min_new_tokens": 0,
    "max_new_tokens": None,
    "processors": (),
    "logprobs": 0,
}
