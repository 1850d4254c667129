"""The options of decode() and its kin: checked, with defaults filled in, before the first step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from decoding.engine.batch.contexts import StepInputs, check_context, check_state
from decoding.engine.latents import Latents, given_latents
from decoding.engine.request import Request, Settings
from decoding.engine.rollout import Episodes
from decoding.errors import OptionError, whole_number
from decoding.inputs.prompts import Ids, checked_ids
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.model.single_run import seed_of
from decoding.processors import Processor
from decoding.strategies import Beam, Greedy, Sample, Strategy, TopN

# Rows that run together unless the caller says otherwise; see docs/architecture.md for the measurement.
DEFAULT_BATCH_SIZE = 128
DEFAULT_MAX_NEW_TOKENS = 256
# Rows that make a worker worth it, and bytes of weights from which it takes a whole batch, as weights are then read from
# memory at every step of every worker; both measured in docs/benchmarks/decode.md.
ROWS_OF_A_WORKER, LARGE_NETWORK = 64, 40 << 20

FromModel = Literal["model"]


@dataclass(frozen=True)
class Given:
    """What the caller gives for each prompt: contexts, and values that states start from, by input name."""

    contexts: Mapping[str, list[Array] | Array]
    states: Mapping[str, list[Array] | Array]


class Options(TypedDict, total=False):
    """The keyword arguments that decode(), stream() and decode_iter() share; decode() explains them."""

    max_new_tokens: int | None
    min_new_tokens: int
    eos_token_id: int | Sequence[int] | FromModel | None
    stop: str | Sequence[str | int | Sequence[int]]
    num_return_sequences: int
    seed: int | None
    processors: Sequence[Processor]
    logprobs: int
    batch_size: int | None
    step_inputs: StepInputs | None
    return_attention: bool


def make_settings(
    model: Model,
    strategy: Strategy,
    *,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    eos_token_id: int | Sequence[int] | FromModel | None = "model",
    stop: str | Sequence[str | int | Sequence[int]] = (),
    num_return_sequences: int = 1,
    seed: int | None = None,
    processors: Sequence[Processor] = (),
    logprobs: int = 0,
    batch_size: int | None = None,
    step_inputs: StepInputs | None = None,
    return_attention: bool = False,
) -> Settings:
    """Check every option, each by itself and against the others.

    Raises:
        OptionError: names the option, what was found and what was expected.
    """
    if not isinstance(strategy, Greedy | Sample | TopN | Beam):
        raise OptionError(
            f"strategy={strategy!r}: expected a strategy object such as Greedy() or Sample(temperature=0.8)"
        )
    outputs = whole_number("num_return_sequences", num_return_sequences, 1)
    if max_new_tokens is None:
        max_new_tokens = model.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    stop_ids, stop_strings = _stops(model, stop)
    settings = Settings(
        strategy=strategy,
        outputs=outputs,
        seed=seed_of(seed),
        eos=_eos(model, eos_token_id),
        stop=stop_ids,
        stop_strings=stop_strings,
        min_new_tokens=whole_number("min_new_tokens", min_new_tokens, 0),
        max_new_tokens=_longest(max_new_tokens),
        processors=_processors(processors),
        top_logprobs=whole_number("logprobs", logprobs, 0),
        teacher_ratio=None,
        batch_size=DEFAULT_BATCH_SIZE if batch_size is None else whole_number("batch_size", batch_size, 1),
        step_inputs=step_inputs,
        return_attention=bool(return_attention),
    )
    _check_together(model, settings)
    return settings


def check_names(function: str, options: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that the function does not have."""
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise OptionError(f"{function}() has no option {unknown[0]!r}; it has {', '.join(Options.__annotations__)}")


def _check_together(model: Model, settings: Settings) -> None:
    """Options that contradict each other, or the model."""
    if isinstance(settings.strategy, Greedy) and settings.outputs > 1:
        raise OptionError(
            f"num_return_sequences={settings.outputs}: Greedy() has one output for each prompt; use Sample() or Beam() for several"
        )
    if isinstance(settings.strategy, Beam) and settings.outputs > settings.strategy.num_beams:
        raise OptionError(
            f"num_return_sequences={settings.outputs}: more than the num_beams={settings.strategy.num_beams} hypotheses that Beam keeps"
        )
    if settings.min_new_tokens > settings.max_new_tokens:
        raise OptionError(
            f"min_new_tokens={settings.min_new_tokens}: more than max_new_tokens={settings.max_new_tokens}"
        )
    if settings.top_logprobs > model.vocab_size:
        raise OptionError(f"logprobs={settings.top_logprobs}: the model has only {model.vocab_size} tokens")
    covers = isinstance(settings.strategy, Beam) and settings.strategy.coverage_penalty != 0
    if (settings.return_attention or covers) and model.contract.attention is None:
        option = "return_attention=True" if settings.return_attention else "Beam(coverage_penalty=...)"
        raise OptionError(
            f"{option}: {model.name} has no attention output; export the weights [batch, source] as an output, and pass "
            "roles={'attention': name} to load() if its name does not say so"
        )
    if settings.return_attention and isinstance(settings.strategy, Sample) and not settings.strategy.replacement:
        raise OptionError("return_attention=True: not with Sample(replacement=False); use another strategy")
    if settings.strategy.searches_together and settings.top_logprobs:
        raise OptionError(
            f"logprobs={settings.top_logprobs}: not with {type(settings.strategy).__name__} that searches; use Greedy, Sample or TopN"
        )


def make_prompts(
    strategy: Strategy,
    ids: Sequence[Ids],
    given: Given,
    teacher: Sequence[Ids] | None = None,
    sources: Sequence[Mapping[str, Any]] | None = None,
) -> list[Request]:
    """Prompts with what differs from one to the next."""
    none = np.zeros(0, np.int64)
    temperatures = temperatures_of(strategy, len(ids))
    return [
        Request(
            i,
            p,
            temperatures[i],
            none if teacher is None else teacher[i],
            {name: values[i] for name, values in given.contexts.items()},
            {name: values[i] for name, values in given.states.items()},
            {} if sources is None else sources[i],
        )
        for i, p in enumerate(ids)
    ]


def check_contexts(model: Model, context: Any, step_inputs: Any, prompts: int) -> Given:
    """The model's contexts for all prompts, by input name; also what states start from.

    Raises:
        OptionError: one is missing, unknown or of a wrong shape.
    """
    every = (*model.contract.contexts, *model.contract.row_inputs)
    auxiliary_inputs = {f.name: f for f in every if f.kind != "latent"}
    states = {s.input: s for s in model.contract.states}
    fed = model.encoders.fed if model.encoders is not None else set()
    wanted = [f.name for f in model.contract.contexts if f.name not in fed]
    shown = ", ".join(wanted) or "none"
    if step_inputs is not None and not callable(step_inputs):
        raise OptionError(
            f"step_inputs={step_inputs!r}: expected a function from a History to a dict of arrays [rows, ...]"
        )
    if context is not None and not isinstance(context, Mapping):
        if len(wanted) != 1:
            raise OptionError(f"context: expected a dict from input names to arrays; the model's contexts are {shown}")
        context = {wanted[0]: context}
    contexts, starts = {}, {}
    for name, value in (context or {}).items():
        if name in fed and name in auxiliary_inputs:
            raise OptionError(
                f"context: {name!r} comes from the encoder; the contexts that it does not give are {shown}"
            )
        if name in auxiliary_inputs:
            contexts[name] = check_context(auxiliary_inputs[name], value, prompts, "context")
        elif name in states:
            starts[name] = check_state(states[name], value, prompts)
        else:
            raise OptionError(f"context: the model has no {name!r}; its contexts are {shown}")
    if (missing := sorted(set(wanted) - set(contexts))) and step_inputs is None:
        sizes = ", ".join(["prompts", *("any" if s is None else str(s) for s in auxiliary_inputs[missing[0]].sizes)])
        raise OptionError(
            f"context: the model needs {missing[0]!r}; pass context={{{missing[0]!r}: array [{sizes}]}}, or step_inputs="
        )
    return Given(contexts, starts)


def with_latents(model: Model, settings: Settings, latents: Any, prompts: int) -> Settings:
    """The job with the model's latents, given or to be drawn; as it was where the model has none."""
    if not model.latents:
        if latents is not None:
            raise OptionError(
                f"latents: {model.name} has none; pass roles={{'latent': {{input: 'normal'}}}} to load() if an input is one"
            )
        return settings
    outputs = settings.searches_per_request
    given = {} if latents is None else given_latents(model.latents, latents, prompts, outputs)
    return replace(settings, latents=Latents(model.latents, settings.seed, given))


def temperatures_of(strategy: Strategy, prompts: int) -> list[float]:
    """The temperature of each prompt; 1 where the strategy has none."""
    if not isinstance(strategy, Sample):
        return [1.0] * prompts
    values = np.asarray(strategy.temperature, np.float32)
    if values.ndim == 1 and len(values) != prompts:
        raise OptionError(
            f"Sample(temperature=array of {len(values)}): expected one number, or one for each of the {prompts} prompts"
        )
    return [float(v) for v in np.broadcast_to(values, prompts)]


def with_teacher(
    model: Model, settings: Settings, teacher: Any, ratio: Any, prompts: int
) -> tuple[Settings, list[Ids] | None]:
    """The job with its teacher ratio, and the teacher's ids of each prompt; as it was where there is no teacher."""
    number = isinstance(ratio, int | float | np.floating) and not isinstance(ratio, bool)
    if not (number and 0 <= ratio <= 1):
        raise OptionError(f"teacher_ratio={ratio!r}: expected a probability in [0, 1]")
    if teacher is None:
        if ratio:
            raise OptionError(
                f"teacher_ratio={ratio}: there is no teacher; pass teacher= too, one id sequence for each prompt"
            )
        return settings, None
    if settings.strategy.searches_together:
        raise OptionError(
            f"teacher: not with {type(settings.strategy).__name__} that searches; use Greedy, Sample or TopN"
        )
    if not isinstance(teacher, Sequence | np.ndarray) or isinstance(teacher, str) or len(teacher) != prompts:
        found = f"{len(teacher)} sequences" if isinstance(teacher, Sequence | np.ndarray) else type(teacher).__name__
        raise OptionError(f"teacher: found {found}; expected one id sequence for each of the {prompts} prompts")
    ids = [checked_ids(model, t, f"teacher[{i}]") for i, t in enumerate(teacher)]
    return replace(settings, teacher_ratio=float(ratio)), ids


def check_completions(strategy: Strategy, n: Any) -> int:
    """How many completions of a prefix the strategy is asked for.

    Raises:
        OptionError: `n` is no such number, or the strategy does not draw so many one by one.
    """
    count = whole_number("n", n, 1)
    if strategy.searches_together:
        raise OptionError(f"strategy={strategy!r}: completions are drawn one by one; use Sample() or TopN()")
    if isinstance(strategy, Greedy) and count > 1:
        raise OptionError(f"n={count}: Greedy() has one completion of a prefix; pass n=1, or use Sample()")
    return count


def make_episodes(
    model: Model, settings: Settings, prompts: Sequence[Request], as_long: bool, pad_token_id: Any
) -> Episodes:
    """Sequences to complete: each up to its first EOS, behind the model's BOS.

    Args:
        prompts: the whole sequences.
        as_long: completions go as far as the longest sequence.

    Raises:
        OptionError: `pad_token_id` is no whole number.
    """
    bos = np.array([] if model.bos_token_id is None else [model.bos_token_id], np.int64)
    ends = [np.flatnonzero(np.isin(p.ids, settings.eos))[:1] for p in prompts]
    whole = [p.ids if not len(end) else p.ids[: end[0] + 1] for p, end in zip(prompts, ends, strict=True)]
    cut = [replace(p, ids=np.concatenate([bos, ids])) for p, ids in zip(prompts, whole, strict=True)]
    if pad_token_id is None:
        pad_token_id = next((i for i in (model.pad_token_id, *settings.eos) if i is not None), 0)
    elif isinstance(pad_token_id, bool) or not isinstance(pad_token_id, int | np.integer):
        raise OptionError(f"pad_token_id={pad_token_id!r}: expected a whole number")
    longest = None if as_long else settings.max_new_tokens
    return Episodes(cut, len(bos), max(len(p.ids) for p in prompts), longest, int(pad_token_id))


def choose_workers(model: Model, settings: Settings, workers: int | None, prompts: int) -> int:
    """Threads to decode in.

    A worker is worth it when it has enough rows of its own: then two of them beat two intra-op threads (measured in
    docs/benchmarks/decode.md). A smaller job, and a model whose threads the caller chose, stay in one.
    """
    if workers is not None or model.on_device:
        return check_workers(model, 1 if workers is None else workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = prompts * settings.rows_per_request
    enough = settings.batch_size if model.weight_bytes > LARGE_NETWORK else min(settings.batch_size, ROWS_OF_A_WORKER)
    return max(1, min(cores, rows // enough)) if model.session.threads is None and not settings.processors else 1


def check_workers(model: Model, workers: int) -> int:
    """The number of workers that was given: a device runs one batch after the other, so that more would only wait."""
    if whole_number("workers", workers, 1) > 1 and model.on_device:
        raise OptionError(f"workers={workers}: expected 1 on a GPU; pass a larger batch_size")
    return workers


def _longest(max_new_tokens: Any) -> int:
    if whole_number("max_new_tokens", max_new_tokens, 1) >= 2**31:
        raise OptionError(f"max_new_tokens={max_new_tokens}: expected a whole number below 2**31")
    return int(max_new_tokens)


def _eos(model: Model, eos_token_id: Any) -> tuple[int, ...]:
    if eos_token_id is None:
        return ()
    if isinstance(eos_token_id, str) and eos_token_id == "model":
        return model.eos_token_id
    ids = tuple(eos_token_id) if np.ndim(eos_token_id) else (eos_token_id,)
    for token in ids:
        if whole_number("eos_token_id", token, 0) >= model.vocab_size:
            raise OptionError(f"eos_token_id={token}: the model's ids go from 0 to {model.vocab_size - 1}")
    return tuple(int(token) for token in ids)


def _stops(model: Model, stop: Any) -> tuple[tuple[npt.NDArray[np.int64], ...], tuple[str, ...]]:
    """Stop sequences of ids, and stop strings."""
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, bytes) or not isinstance(stops, Iterable):
        raise OptionError(f"stop={stop!r}: expected a string, or a list of strings and id sequences")
    stops = list(stops)
    texts = tuple(s for s in stops if isinstance(s, str))
    if texts and model.tokenizer is None:
        raise OptionError(
            f"stop={texts[0]!r}: {model.name} has no vocabulary; give stops as ids, or load(..., tokenizer=...)"
        )
    ids = tuple(checked_ids(model, [s] if np.ndim(s) == 0 else s, "stop") for s in stops if not isinstance(s, str))
    if "" in texts or any(not len(i) for i in ids):
        raise OptionError("stop: an empty stop sequence would end every output at once; leave it out")
    return ids, texts


def _processors(processors: Any) -> tuple[Callable[..., None], ...]:
    if callable(processors) or not isinstance(processors, Iterable):
        raise OptionError(f"processors={processors!r}: expected a list of callables f(history, logits)")
    for processor in processors:
        if not callable(processor):
            raise OptionError(f"processors: {processor!r} is no callable f(history, logits)")
        if isinstance(processor, type):
            raise OptionError(
                f"processors: {processor.__name__} is a class; pass an object of it, {processor.__name__}(...)"
            )
    return tuple(processors)
