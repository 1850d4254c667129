"""decode(), stream(), decode_iter(), score() and rollout(): check what was asked, hand it to an engine, order what comes back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from decoding.engine.batch.contexts import StepInputs
from decoding.engine.collect import by_prompt, with_bar
from decoding.engine.encode import alike, with_latents_of
from decoding.engine.loop import decode_requests, queue_requests
from decoding.engine.request import Request, Settings
from decoding.engine.rollout import Reward, action_values
from decoding.engine.score import score_sequences
from decoding.engine.search.sampling import SamplingSearch
from decoding.errors import OptionError, whole_number
from decoding.inputs.options import (
    DEFAULT_BATCH_SIZE,
    FromModel,
    Options,
    check_completions,
    check_contexts,
    check_names,
    check_workers,
    choose_workers,
    make_episodes,
    make_prompts,
    make_settings,
    temperatures_of,
    with_latents,
    with_teacher,
)
from decoding.inputs.prompts import Ids, encode_prompts
from decoding.inputs.sources import encode_sources, read_prompts
from decoding.model.discriminator import Discriminator
from decoding.model.graph.graph import ModelFile as ModelSource
from decoding.model.load import load
from decoding.model.model import Model
from decoding.processors import Processor
from decoding.results import Decoded, Hypothesis, TokenEvent
from decoding.strategies import Greedy, Sample, Strategy

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | None
# With an encoder: also arrays, lists of turns, or a dict of the encoder's inputs.
Sources = Prompts | Sequence[Any] | Mapping[str, Any]
Context = (
    Mapping[str, npt.ArrayLike | Sequence[npt.NDArray[Any]]] | npt.NDArray[Any] | Sequence[npt.NDArray[Any]] | None
)
Latents = Mapping[str, npt.ArrayLike | Sequence[npt.NDArray[Any]]] | npt.ArrayLike | Sequence[Any] | None


def decode(
    model: Model | str | Path,
    prompts: Sources = None,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    eos_token_id: int | Sequence[int] | FromModel | None = "model",
    stop: str | Sequence[str | int | Sequence[int]] = (),
    num_return_sequences: int = 1,
    seed: int | None = None,
    prefix: Prompts = None,
    context: Context = None,
    latents: Latents = None,
    processors: Sequence[Processor] = (),
    step_inputs: StepInputs | None = None,
    teacher: Sequence[Sequence[int]] | npt.NDArray[Any] | None = None,
    teacher_ratio: float = 0.0,
    logprobs: int = 0,
    return_attention: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Decoded:
    """Continue every prompt with the model.

    Args:
        model: what `load()` gave, or what it takes.
        prompts: a string, a list of strings, one sequence of ids, a list of id sequences of any lengths, a 2-D integer
            array, or None to start from BOS, once for each row of `context`. Strings are tokenized, with the model's BOS (if it has one) in front;
            ids are taken as they are. With an encoder these are the sources that it reads: strings (tokenized by the encoder's own
            vocabulary where its file has one), ids, arrays, or a dict ``{encoder input: one value for each prompt}``. Where an
            encoder reads the turns of a conversation, a source is a list of turns. Unequal lengths are padded and masked, or,
            where padding would change the answer, run apart.
        strategy: `Greedy()`, `Sample(...)`, `TopN(n)` or `Beam(...)`.
        max_new_tokens: longest output, EOS included; default the model's own, else 256.
        min_new_tokens: no EOS before so many new tokens.
        eos_token_id: id that ends a sequence, or several; None never stops at a token; default the model's.
        stop: strings or id sequences that end an output, also across tokens; they stay in it. An id alone is a sequence
            of one: ``[3, 9]`` stops at either, ``[[3, 9]]`` at one behind the other.
        num_return_sequences: outputs for each prompt.
        seed: key of the random draws, 0 to 2**64 - 1; None takes one from the operating system. A token depends only on the
            seed, the sequence's place (prompt index * num_return_sequences + output index), its step and the logits:
            not on `batch_size` or `workers`, nor on the order in which sequences run.
        prefix: with an encoder, the decoder's own first tokens: one string or id sequence for all prompts, or a list with one
            for each; default BOS.
        context: the arrays that the model's contexts take, one entry for each prompt: ``{input name: array [prompts, ...]}``,
            or just the array where there is one context; a list of arrays where they differ in length. The same at every step.
            The name of a state gives what the state starts from.
        latents: values of the model's latents, one for each prompt, or one for each of its sequences: ``{input name: array}``, the
            array alone where there is one latent, or a list of what hypotheses have as `latent`. Default: drawn by the seed. A
            latent that is drawn anew at every step takes [steps, ...] for each.
        processors: callables ``f(history, logits)`` that edit the logits of a batch of rows in place; see
            `decoding.processors`.
        step_inputs: a function that gives contexts anew for each step: ``f(history) -> {input name: array [rows, ...]}``;
            `history` is a `History` whose rows end with the token that this step feeds.
        teacher: an id sequence for each prompt: at each step its token is fed next with probability `teacher_ratio`,
            else the model's own choice (scheduled sampling, Bengio et al. 2015).
        logprobs: how many of the best log-probabilities to give for each new token.
        return_attention: give the weights over the source with which each token was chosen.
        batch_size: rows that run together, in each worker; default at most 128.
        workers: threads with a batch each; default from the sizes of job and batch.
        progress: show a bar with sequences and tokens a second.

    Returns:
        `len(prompts) * num_return_sequences` hypotheses, ordered by prompt, the best of each prompt first. A search for
        distinct sequences (`Beam`, `Sample(replacement=False)`) gives fewer where there are no more.

    Raises:
        OptionError: an argument is wrong.
        ModelError: the model cannot be loaded or run.
        DecodeError: logits are NaN or leave no token to choose; names the sequence and the step.
    """
    model = _loaded(model)
    settings = make_settings(
        model,
        strategy,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        eos_token_id=eos_token_id,
        stop=stop,
        num_return_sequences=num_return_sequences,
        seed=seed,
        processors=processors,
        logprobs=logprobs,
        batch_size=batch_size,
        step_inputs=step_inputs,
        return_attention=return_attention,
    )
    ids, sources = _starts(model, prompts, prefix, context)
    given = check_contexts(model, context, step_inputs, len(ids))
    settings = with_latents(model, settings, latents, len(ids))
    settings, taught = with_teacher(model, settings, teacher, teacher_ratio, len(ids))
    rows = make_prompts(strategy, ids, given, taught, sources)
    finished = decode_requests(model, settings, rows, choose_workers(model, settings, workers, len(ids)))
    groups = by_prompt(model, settings, with_bar(finished, len(ids) * settings.outputs) if progress else finished)
    return Decoded([h for group in sorted(groups, key=lambda g: g[0].prompt_index) for h in group])


def stream(
    model: Model | str | Path,
    prompts: Sources = None,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    prefix: Prompts = None,
    context: Context = None,
    latents: Latents = None,
    **options: Unpack[Options],
) -> Iterator[TokenEvent]:
    """As `decode()`, giving every token as it is made.

    Takes the options of `decode()` but teacher, workers and progress; `Beam` and `Sample(replacement=False)` have no
    token before the end. Errors are those of `decode()`.
    """
    model = _loaded(model)
    check_names("stream", options)
    settings = make_settings(model, strategy, **options)
    if strategy.searches_together:
        raise OptionError(f"strategy={strategy!r}: it knows no token before the end; use decode(), or another strategy")
    ids, sources = _starts(model, prompts, prefix, context)
    given = check_contexts(model, context, settings.step_inputs, len(ids))
    settings = with_latents(model, settings, latents, len(ids))
    return _token_events(model, settings, make_prompts(strategy, ids, given, sources=sources))


def decode_iter(
    model: Model | str | Path,
    prompts: Iterable[Any],
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    prefix: str | Sequence[int] | None = None,
    workers: int = 1,
    **options: Unpack[Options],
) -> Iterator[Hypothesis]:
    """As `decode()` over an iterable of prompts, which may be endless, with memory for `batch_size` rows.

    Prompts are taken as places get free; with an encoder they are sources, encoded a few at a time as they are taken, and
    `prefix` holds for all of them. The hypotheses of a prompt come when all of them are finished, best first;
    `prompt_index` says whose they are. Takes the options of `decode()` but context, latents, teacher and progress; a temperature
    is one number, and `workers` is 1 unless given. Errors are those of `decode()`.
    """
    model = _loaded(model)
    check_names("decode_iter", options)
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise OptionError(f"prompts={prompts!r}: expected an iterable of prompts, each a string or a sequence of ids")
    settings = make_settings(model, strategy, **options)
    if isinstance(strategy, Sample) and np.ndim(strategy.temperature):
        raise OptionError("Sample(temperature=array): the prompts of an iterable cannot be counted; pass one number")
    temperature = temperatures_of(strategy, 1)[0]
    check_contexts(model, None, settings.step_inputs, 0)
    settings = with_latents(model, settings, None, 0)
    none = np.zeros(0, np.int64)

    def read() -> Iterator[Request]:
        for index, prompt in enumerate(prompts):
            (ids,), (source,) = read_prompts(model, prompt, prefix, first=index, single=True)
            yield Request(index, ids, temperature, none, source=source)

    finished = decode_requests(model, settings, read(), check_workers(model, workers))
    return itertools.chain.from_iterable(by_prompt(model, settings, finished))


def score(
    model: Model | str | Path,
    sequences: Prompts,
    *,
    prompts: Sources = None,
    context: Context = None,
    latents: Latents = None,
    seed: int | None = None,
    batch_size: int | None = None,
) -> list[npt.NDArray[np.float32]]:
    """Log-probability (natural logarithm) of every given token, given those before it.

    Args:
        model: what `load()` gave, or what it takes.
        sequences: strings or ids, in any form that `decode()` takes as prompts.
        prompts: with an encoder, the source of each sequence, or one for all of them.
        context, latents: as in `decode()`; latents that are not given are drawn by `seed`.
        batch_size: sequences that run together; default at most 128.

    Returns:
        A float32 array for each sequence, one value a token. The first token is scored after the model's BOS; without a
        BOS nothing comes before it, and its value is NaN.

    Raises:
        OptionError: an argument is wrong.
        DecodeError: logits are NaN, infinite or all -inf.
    """
    model = _loaded(model)
    if sequences is None:
        raise OptionError("sequences is None: there is nothing to score; pass strings or ids")
    rows = DEFAULT_BATCH_SIZE if batch_size is None else whole_number("batch_size", batch_size, 1)
    bos = np.array([] if model.bos_token_id is None else [model.bos_token_id], np.int64)
    ids = encode_prompts(model, sequences, bos=False, name="sequences")
    given = check_contexts(model, context, None, len(ids))
    settings = with_latents(model, make_settings(model, Greedy(), seed=seed), latents, len(ids))
    sources = _sources_of(model, prompts, len(ids))
    whole = make_prompts(Greedy(), [np.concatenate([bos, i]) for i in ids], given, sources=sources)
    whole = [p for _, p in with_latents_of(settings.latents, enumerate(whole), model.contract)]
    values = score_sequences(model, whole, rows, settings.latents)
    first = np.array([] if len(bos) else [np.nan], np.float32)
    return [np.concatenate([first, values[i]]) for i in range(len(ids))]


def rollout(
    model: Model | str | Path,
    sequences: Prompts,
    reward: Reward | ModelSource,
    *,
    n: int,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    strategy: Strategy = Sample(),  # noqa: B008 - frozen
    eos_token_id: int | Sequence[int] | FromModel | None = "model",
    pad_token_id: int | None = None,
    prompts: Sources = None,
    context: Context = None,
    latents: Latents = None,
    processors: Sequence[Processor] = (),
    batch_size: int | None = None,
    workers: int | None = None,
) -> npt.NDArray[np.float64]:
    """Monte-Carlo action values of sequences: how good their continuations turn out after each of their tokens.

    As in SeqGAN (Yu et al. 2017, equation 4): entry t of a row is the mean reward of `n` completions that the model samples after
    token t; the last entry is the reward of the sequence itself. The state after each prefix is computed once for all
    sequences, and the completions of all positions share one batch, which is refilled as they finish.

    Args:
        model: what `load()` gave, or what it takes: the roll-out policy.
        sequences: strings or ids, in any form that `decode()` takes as prompts. The first token comes after the model's
            BOS, if it has one, as in `score()`. A sequence ends with its first EOS (which `decode()` leaves out of `tokens`);
            what stands behind that is padding.
        reward: a function from ids int64 [N, width] to N rewards, called with at most 128 rows at a time; or a
            discriminator in an ONNX file, as a `Discriminator` or as what that takes.
        n: completions of each prefix.
        max_new_tokens: longest completion, EOS included; default as far as the longest sequence goes.
        seed: as in `decode()`; the draws are others than those of `decode()` with the same seed. The values do not depend on
            `batch_size` or `workers`.
        strategy: how completions are drawn: `Sample(...)`, `TopN(n)`, or `Greedy()` with n=1.
        eos_token_id: as in `decode()`.
        pad_token_id: fills the rows that the reward sees behind their EOS; default the model's, else its first EOS, else 0.
        prompts: with an encoder, the source of each sequence, or one for all of them.
        context, latents: as in `decode()`, one entry for each sequence; latents that are not given are drawn by `seed`.
        processors: as in `decode()`; of a completion, its prefix counts as the prompt.
        batch_size: completions that run together, in each worker; default at most 128.
        workers: threads with a batch each; default from the sizes of job and batch.

    Returns:
        float64 [B, T], T the length of the longest sequence (of a 2-D array: its width). From the end of a shorter sequence
        on, the entries are the reward of the sequence itself: mask them where a loss sums over tokens. The reward's rows
        are T wide, or T - 1 + max_new_tokens where that is more.

    Raises:
        OptionError: an argument is wrong, or the reward gives something else than a number for each row.
        ModelError: the model or the discriminator cannot be loaded or run.
        DecodeError: logits are NaN or leave no token to choose.
    """
    model = _loaded(model)
    if sequences is None:
        raise OptionError("sequences is None: there is nothing to complete; pass strings or ids")
    ids = encode_prompts(model, sequences, bos=False, name="sequences")
    completions = check_completions(strategy, n)
    settings = make_settings(
        model,
        strategy,
        max_new_tokens=max(2, *map(len, ids)) - 1 if max_new_tokens is None else max_new_tokens,
        eos_token_id=eos_token_id,
        num_return_sequences=completions,
        seed=seed,
        processors=processors,
        batch_size=batch_size,
    )
    given = check_contexts(model, context, None, len(ids))
    whole = make_prompts(strategy, ids, given, sources=_sources_of(model, prompts, len(ids)))
    whole = _with_latents_of_a_sequence(model, settings, whole, latents)
    episodes = make_episodes(model, settings, whole, max_new_tokens is None, pad_token_id)
    workers = choose_workers(model, settings, workers, episodes.length * len(ids))
    return action_values(model, settings, episodes, reward if callable(reward) else Discriminator(reward), workers)


def _with_latents_of_a_sequence(
    model: Model, settings: Settings, prompts: list[Request], latents: Latents
) -> list[Request]:
    """The sequences with the latents that all their completions share."""
    if any(f.draw.every == "step" for f in model.latents):
        raise OptionError(
            f"rollout: {model.name} draws latents at every step, and those of the given sequences are not known; decode() goes on from prompts"
        )
    own = with_latents(model, replace(settings, outputs=1), latents, len(prompts)).latents
    return [p for _, p in with_latents_of(own, enumerate(prompts), model.contract)]


def _sources_of(model: Model, prompts: Sources, count: int) -> list[dict[str, Any]]:
    """The sources of given sequences: one for each, or one for all."""
    if model.encoders is None:
        if prompts is not None:
            raise OptionError(
                f"prompts: {model.name} has no encoder to read them; pass the whole sequences as sequences"
            )
        return [{} for _ in range(count)]
    sources = encode_sources(model, prompts)
    if len(sources) not in (1, count):
        raise OptionError(
            f"prompts: found {len(sources)} sources; expected one for all, or one for each of the {count} sequences"
        )
    return sources if len(sources) == count else sources * count


def _starts(
    model: Model, prompts: Sources, prefix: Prompts, context: Context
) -> tuple[list[Ids], list[dict[str, Any]]]:
    """As `read_prompts()`; where there are no prompts each context has one of its own, from BOS."""
    ids, sources = read_prompts(model, prompts, prefix)
    if prompts is not None or model.encoders is not None or context is None:
        return ids, sources
    first: Any = next(iter(context.values()), [()]) if isinstance(context, Mapping) else context
    try:
        count = max(1, len(first))
    except TypeError:  # a number: what is wrong with it is said where contexts are checked
        count = 1
    return ids * count, sources * count


def _loaded(model: Model | str | Path) -> Model:
    loaded = model if isinstance(model, Model) else load(model)
    _ = loaded.contract  # a plain generator has none, and says what to call instead
    return loaded


def _token_events(model: Model, settings: Settings, prompts: list[Request]) -> Iterator[TokenEvent]:
    for group in alike(model.contract, prompts, len(prompts)):
        own = list(group)
        rows = min(settings.batch_size, len(own) * settings.outputs)
        search = SamplingSearch(model, settings, queue_requests(model, settings, own, rows), rows)
        for choice in search.choices():
            shown = [] if choice.finish_reason == "eos" else [choice.token]
            text = None if model.tokenizer is None else model.tokenizer.decode(shown)
            prompt, output = divmod(choice.sequence, settings.outputs)
            yield TokenEvent(prompt, output, choice.token, text, choice.logprob, choice.finish_reason)
