"""Makes requests of what the caller gave: one for each prompt or `EngineRequest`, each item of an iterable, or each given sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding._types import Ids
from decoding.engine.request import Call, EngineRequest, Settings
from decoding.engine.rollout import Episodes
from decoding.errors import OptionError, finite_number, shown, whole_number
from decoding.inputs.contexts import check_contexts
from decoding.inputs.prompts import checked_ids, encode_prompts
from decoding.inputs.sources import encode_sources
from decoding.model.model import Model
from decoding.strategies import Greedy, Sample, Strategy

Source = Mapping[str, Any]


def make_requests(
    model: Model, call: Call, ids: Sequence[Ids], sources: Sequence[Source], context: Any
) -> list[EngineRequest]:
    """Return a request for each prompt, with its own context, initial states and temperature.

    Raises:
        OptionError: contexts or temperatures do not fit the prompts.
    """
    given = check_contexts(model, context, call.step_inputs, len(ids))
    each = temperatures(call.settings.strategy, len(ids))
    return [
        EngineRequest(
            index=i,
            ids=ids[i],
            settings=call.settings,
            seed=call.seed,
            first=i * call.settings.outputs,
            temperature=each[i],
            context={name: values[i] for name, values in given.contexts.items()},
            states={name: values[i] for name, values in given.states.items()},
            source=sources[i],
        )
        for i in range(len(ids))
    ]


def read_prompts(
    model: Model, prompts: Any, prefix: Any, context: Any = None, *, first: int = 0, single: bool = False
) -> tuple[list[Ids], Sequence[Source]]:
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
        ids = encode_prompts(model, [prompts] if single and prompts is not None else prompts, first=first)
        if prompts is None and context is not None:
            ids = ids * _entries(context)
        return ids, [{}] * len(ids)
    sources = encode_sources(model, prompts, first=first, single=single)
    ids = encode_prompts(model, prefix, name="prefix")
    if len(ids) not in (1, len(sources)):
        raise OptionError(
            f"prefix: found {len(ids)} of them; expected one for all prompts, or one for each of the {len(sources)}"
        )
    return ids if len(ids) == len(sources) else ids * len(sources), sources


def check_takes_prefix(model: Model) -> None:
    """Refuse a prefix where there is no encoder.

    Raises:
        OptionError: there is none.
    """
    if model._network.encoders is None:
        raise OptionError(
            f"prefix: {model.name} has no encoder: it continues the prompts themselves; pass the tokens as prompts"
        )


def read_sequences(model: Model, sequences: Any, prompts: Any, use: str) -> tuple[list[Ids], Sequence[Source]]:
    """Return the ids of given sequences, without BOS, and the source of each.

    Args:
        prompts: with an encoder, the source of each sequence, or one for all.
        use: what the sequences are for, in messages.

    Raises:
        OptionError: a sequence or a source is wrong, or there are too few sources or too many.
    """
    if sequences is None:
        raise OptionError(f"sequences is None: there is nothing to {use}; pass strings or ids")
    ids = encode_prompts(model, sequences, bos=False, name="sequences")
    if model._network.encoders is None:
        if prompts is not None:
            raise OptionError(
                f"prompts: {model.name} has no encoder to read them; pass the whole sequences as sequences"
            )
        return ids, [{}] * len(ids)
    sources = encode_sources(model, prompts)
    if len(sources) not in (1, len(ids)):
        raise OptionError(
            f"prompts: found {len(sources)} sources; expected one for all, or one for each of the {len(ids)} sequences"
        )
    return ids, sources if len(sources) == len(ids) else sources * len(ids)


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
    """Return the sequences to complete: each up to its first EOS, after the model's BOS.

    Args:
        requests: the whole sequences.
        longest: new tokens of a completion; None for as far as the longest sequence goes.

    Raises:
        OptionError: `pad_token_id` is no whole number.
    """
    bos = bos_ids(model)
    ends = [np.flatnonzero(np.isin(r.ids, settings.eos))[:1] for r in requests]
    whole = [r.ids if not len(end) else r.ids[: end[0] + 1] for r, end in zip(requests, ends, strict=True)]
    cut = [replace(r, ids=np.concatenate([bos, ids])) for r, ids in zip(requests, whole, strict=True)]
    if pad_token_id is None:
        pad_token_id = next((i for i in (model.pad_token_id, *settings.eos) if i is not None), 0)
    pad = whole_number("pad_token_id", pad_token_id, -(2**63), below=2**63)
    return Episodes(cut, len(bos), max(len(r.ids) for r in requests), longest, pad)


def temperatures(strategy: Strategy, prompts: int) -> list[float]:
    """Return the temperature of each prompt; 1 where the strategy has none."""
    if not isinstance(strategy, Sample):
        return [1.0] * prompts
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
