"""Makes requests of what the caller gave: one for each prompt or `EngineRequest`, each item of an iterable, or each given sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from decoding._types import Ids
from decoding.engine.request import Call, EngineRequest, Settings
from decoding.engine.rollout import Episodes
from decoding.errors import OptionError, finite_number, shown, whole_number
from decoding.inputs.contexts import check_contexts
from decoding.inputs.prompts import checked_ids, encode_prompts, prompts_by_member
from decoding.inputs.sources import encode_sources
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.ensembles.network import reads_apart
from decoding.model.model import Model
from decoding.strategies import Greedy, Sample, Strategy

Source = Mapping[str, Any]


class Start(NamedTuple):
    """What a request begins with.

    Attributes:
        ids: of its prompt.
        prefixes: what members of an ensemble read in its place, see `EngineRequest`.
    """

    ids: Ids
    prefixes: Mapping[str, Ids] = {}


def make_requests(
    model: Model,
    call: Call,
    starts: Sequence[Start],
    sources: Sequence[Source],
    context: Any,
    sequences: Sequence[Ids] | None = None,
) -> list[EngineRequest]:
    """Return a request for each prompt, with its own context, initial states and temperature.

    Args:
        sequences: ids that are given after each prompt.

    Raises:
        OptionError: contexts or temperatures do not fit the prompts; or an option does not go with prompts of members' own.
    """
    given = check_contexts(model, context, call.step_inputs, len(starts))
    each = temperatures(call.settings.strategy, len(starts))
    check_apart(model, call, starts)
    return [
        EngineRequest(
            index=i,
            ids=start.ids if sequences is None else np.concatenate([start.ids, sequences[i]]),
            start=len(start.ids),
            prefixes=start.prefixes,
            settings=call.settings,
            seed=call.seed,
            first=i * call.settings.outputs,
            temperature=each[i],
            context={name: values[i] for name, values in given.contexts.items()},
            states={name: values[i] for name, values in given.states.items()},
            source=sources[i],
        )
        for i, start in enumerate(starts)
    ]


def read_prompts(
    model: Model, prompts: Any, prefix: Any, context: Any = None, *, first: int = 0, single: bool = False
) -> tuple[list[Start], Sequence[Source]]:
    """Return the ids that each prompt starts from, and what its encoder reads: nothing without an encoder.

    Args:
        prefix: with an encoder, the decoder's first tokens: one sequence for all prompts or one for each.
        context: where there are no prompts, each of its entries gets one, which starts from BOS.
        first: number of the first prompt in messages.
        single: `prompts` is one prompt, as an iterable of them has it.

    Raises:
        OptionError: a prompt, source or prefix is wrong; the message names it.
    """
    if prefix is not None:
        check_takes_prefix(model)
    if model._network.encoders is None:
        starts = _starts(model, prompts, first=first, single=single)
        if prompts is None and context is not None:
            starts = starts * _entries(context)
        return starts, [{}] * len(starts)
    sources = encode_sources(model, prompts, first=first, single=single)
    starts = _for_each(_starts(model, prefix, name="prefix"), len(sources), "prefix", "prompts")
    return starts, sources


def check_takes_prefix(model: Model) -> None:
    """Refuse a prefix where there is no encoder.

    Raises:
        OptionError: there is none.
    """
    if model._network.encoders is None:
        raise OptionError(
            f"prefix: {model.name} has no encoder: it continues the prompts themselves; pass the tokens as prompts"
        )


def read_sequences(
    model: Model, sequences: Any, prompts: Any, prefix: Any, use: str
) -> tuple[list[Ids], list[Start], Sequence[Source]]:
    """Return the ids of given sequences, without BOS, what comes before each, and its source.

    Args:
        prompts: with an encoder, the source of each sequence, or one for all; of an ensemble without one, what comes before each.
        prefix: of an ensemble with an encoder, what comes before each. Default: BOS.
        use: what the sequences are for, in messages.

    Raises:
        OptionError: a sequence, a prompt or a source is wrong, or there are too few of them or too many.
    """
    if sequences is None:
        raise OptionError(f"sequences is None: there is nothing to {use}; pass strings or ids")
    ids = encode_prompts(model, sequences, bos=False, name="sequences")
    together, encodes = isinstance(model, Ensemble), model._network.encoders is not None
    if prefix is not None and not (together and encodes):
        raise OptionError(
            f"prefix: {model.name} is not an ensemble with an encoder; put the first tokens into the sequences, or pass them as prompts of an ensemble"
        )
    if not encodes and prompts is not None and not together:
        raise OptionError(f"prompts: {model.name} has no encoder to read them; pass the whole sequences as sequences")
    before, called = (prefix, "prefix") if encodes else (prompts, "prompts")
    starts = [Start(bos_ids(model))]
    if together and (before is not None or reads_apart(model._network)):
        starts = _starts(model, before, name=called)
    sources = encode_sources(model, prompts) if encodes else [{}]
    starts = _for_each(starts, len(ids), called, "sequences")
    return ids, starts, _for_each(sources, len(ids), "prompts", "sequences")


def check_apart(model: Model, call: Call, starts: Sequence[Start]) -> None:
    """Refuse prompts of members' own where something counts the tokens of all members alike.

    Raises:
        OptionError: there are some, and `step_inputs`, or latents that are drawn at every step.
    """
    if not any(start.prefixes for start in starts):
        return
    if call.step_inputs is not None:
        raise OptionError(
            f"step_inputs: {model.name} has members with different prompts, so there is no common history; leave it out"
        )
    if any(aux.draw.every == "step" for aux in model.latents):
        raise OptionError(
            f"prompts: {model.name} draws latents at every token, so that its members must read the same prompt"
        )


def _starts(model: Model, prompts: Any, *, first: int = 0, single: bool = False, name: str = "prompts") -> list[Start]:
    found = prompts_by_member(model, prompts, first=first, single=single, name=name)
    return [Start(ids, prefixes) for ids, prefixes in found]


def _for_each(given: Sequence[Any], count: int, name: str, of: str) -> list[Any]:
    """Return what is given for each of `count` prompts or sequences; one stands for all."""
    if len(given) not in (1, count):
        raise OptionError(f"{name}: found {len(given)}; expected one for all {of}, or one for each of the {count}")
    return list(given) if len(given) == count else list(given) * count


def bos_ids(model: Model) -> Ids:
    """Return the model's BOS as an id sequence, which is empty where the model has none."""
    return np.array([] if model.bos_token_id is None else [model.bos_token_id], np.int64)


def with_teacher(
    model: Model, call: Call, requests: list[EngineRequest], teacher: Any, ratio: Any
) -> tuple[Call, list[EngineRequest]]:
    """Return the call with the teacher's ratio and the requests with its ids; both as they were without a teacher.

    Raises:
        OptionError: the ratio is no probability, the teacher has ids for more or fewer prompts, or the strategy searches.
    """
    number = finite_number(ratio)
    if number is None or not 0 <= number <= 1:
        raise OptionError(f"teacher_ratio={shown(ratio)}: expected a probability in [0, 1]")
    if teacher is None:
        if ratio:
            raise OptionError(
                f"teacher_ratio={ratio}: there is no teacher; pass teacher= too, one id sequence for each prompt"
            )
        return call, requests
    if together := next((r.settings.strategy for r in requests if r.settings.strategy.searches_together), None):
        raise OptionError(f"teacher: not with {type(together).__name__} that searches; use Greedy, Sample or TopN")
    many = isinstance(teacher, Sequence | np.ndarray) and not isinstance(teacher, str)
    if not many or len(teacher) != len(requests):
        found = f"{len(teacher)} sequences" if many else type(teacher).__name__
        raise OptionError(f"teacher: found {found}; expected one id sequence for each of the {len(requests)} prompts")
    taught = [checked_ids(model, ids, f"teacher[{i}]") for i, ids in enumerate(teacher)]
    requests = [replace(request, teacher=ids) for request, ids in zip(requests, taught, strict=True)]
    for option in ("return_state", "return_member_logprobs"):
        if any(getattr(r.settings, option) for r in requests):
            raise OptionError(
                f"teacher: not with {option}=True, as the tokens that were fed are not those of the output"
            )
    return replace(call, teacher_ratio=float(ratio)), requests


def check_completions(settings: Settings, n: Any) -> int:
    """Return how many completions of a prefix the strategy is asked for.

    Raises:
        OptionError: `n` is no whole number of at least 1, or the strategy does not draw that many one by one.
    """
    count, strategy = whole_number("n", n, 1, below=2**31), settings.strategy
    if settings.strategy.searches_together:
        raise OptionError(f"strategy={shown(strategy)}: completions are drawn one by one; use Sample() or TopN()")
    if isinstance(strategy, Greedy) and count > 1:
        raise OptionError(f"n={count}: Greedy() has one completion of a prefix; pass n=1, or use Sample()")
    return count


def make_episodes(
    model: Model, settings: Settings, requests: Sequence[EngineRequest], longest: int | None, pad_token_id: Any
) -> Episodes:
    """Return the sequences to complete: each up to its first EOS, after what comes before it.

    Args:
        requests: the whole sequences, after their BOS or their prompts.
        longest: new tokens of a completion; None for as far as the longest sequence goes.

    Raises:
        OptionError: `pad_token_id` is no whole number.
    """
    ends = [np.flatnonzero(np.isin(r.ids[r.start :], settings.eos))[:1] + r.start for r in requests]
    cut = [r if not len(end) else replace(r, ids=r.ids[: end[0] + 1]) for r, end in zip(requests, ends, strict=True)]
    if pad_token_id is None:
        pad_token_id = next((i for i in (model.pad_token_id, *settings.eos) if i is not None), 0)
    pad = whole_number("pad_token_id", pad_token_id, -(2**63), below=2**63)
    length = max(len(r.ids) - r.start for r in requests)
    return Episodes(cut, [r.start for r in requests], length, longest, pad)


def temperatures(strategy: Strategy, prompts: int) -> list[float]:
    """Return the temperature of each prompt; 1 where the strategy has none."""
    if not isinstance(strategy, Sample):
        return [1.0] * prompts
    if isinstance(strategy.temperature, float | int):
        return [float(np.float32(strategy.temperature))] * prompts
    values = np.asarray(strategy.temperature, np.float32)
    if values.ndim == 1 and len(values) != prompts:
        raise OptionError(
            f"Sample(temperature=array of {len(values)}): expected one number, or one for each of the {prompts} prompts"
        )
    return [float(v) for v in np.broadcast_to(values, prompts)]


def _entries(context: Any) -> int:
    """Return for how many prompts a context is, at least one; a wrong one is refused where contexts are checked."""
    first: Any = next(iter(context.values()), [()]) if isinstance(context, Mapping) else context
    try:
        return max(1, len(first))
    except TypeError:  # a number
        return 1
