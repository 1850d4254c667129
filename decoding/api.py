"""decode(), stream(), decode_iter(), score() and rollout(): check what the caller gave, run an engine, order the results."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from decoding._types import Context, FromModel, Latents, Processors, Prompts, Sources, StepInputs
from decoding.engine.collect import by_prompt, token_bar, with_bar
from decoding.engine.encode import alike, with_latents_of
from decoding.engine.forks import using
from decoding.engine.latents import Latents as DrawnLatents
from decoding.engine.live.events import Events
from decoding.engine.live.iterable import decode_iterable
from decoding.engine.loop import decode_requests, queue_requests
from decoding.engine.outputs import Outputs
from decoding.engine.request import Call, EngineRequest, FinishedSequence
from decoding.engine.rollout import Reward, action_values
from decoding.engine.score import score_sequences
from decoding.engine.search.sampling import SamplingSearch
from decoding.errors import OptionError, check_flag, shown
from decoding.inputs.latents import with_latents
from decoding.inputs.models import loaded
from decoding.inputs.options import Options, check_names, make_call
from decoding.inputs.own_requests import (
    has_requests,
    mixed_requests,
    requests_of_iterable,
    sequences_of,
    with_own_options,
)
from decoding.inputs.requests import (
    check_completions,
    make_episodes,
    make_requests,
    read_prompts,
    read_sequences,
    with_teacher,
)
from decoding.inputs.sizes import check_memory
from decoding.inputs.workers import check_workers, choose_workers
from decoding.model.discriminator import Discriminator
from decoding.model.graph.graph import ModelFile
from decoding.model.model import Model
from decoding.model.network import Network
from decoding.results import Decoded, Hypothesis, TokenEvent
from decoding.strategies import Greedy, Sample, Strategy


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
    processors: Processors = (),
    step_inputs: StepInputs | None = None,
    teacher: Sequence[Sequence[int]] | npt.NDArray[Any] | None = None,
    teacher_ratio: float = 0.0,
    logprobs: int = 0,
    return_attention: bool = False,
    return_state: bool = False,
    return_member_logprobs: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Decoded:
    """Continue every prompt with the model.

    Args:
        model: a model that `load()` returned, or what `load()` takes: a path, or the name of a shipped model.
        prompts: a string, a list of strings, one sequence of ids, a list of id sequences of any lengths, an integer array
            [T] or [B, T], or None to start from BOS, once for each entry of `context`. Strings are tokenized, with the model's BOS
            (if it has one) in front; ids are taken as they are. With an encoder, prompts are the sources that it reads:
            strings (tokenized by the encoder's own vocabulary where its file has one), ids, arrays, or a dict ``{encoder input:
            one value for each prompt}``. Where an encoder reads the turns of a conversation, a source is a list of
            turns. Sources of unequal length are padded and masked; where padding would change the answer, they run apart.
            A list may also hold `Request` objects, each with its own options, among the prompts.
            For an `Ensemble` a dict by its members gives each member its own prompts (or sources).
        strategy: `Greedy()`, `Sample(...)`, `TopN(n)` or `Beam(...)`.
        max_new_tokens: longest output in tokens, EOS included; default the model's own, else 256. Outputs end earlier, also
            with the reason "length", where the graph takes no longer sequences: `Model.describe()` says so.
        min_new_tokens: shortest output in tokens: EOS is not chosen before.
        eos_token_id: id that ends a sequence, or several; None never stops at a token; default the model's.
        stop: strings or id sequences that end an output, also across tokens; they stay in it. An id alone is a sequence
            of one: ``[3, 9]`` stops at either, ``[[3, 9]]`` at 3 followed by 9.
        num_return_sequences: outputs for each prompt.
        seed: key of the random draws, 0 to 2**64 - 1; None takes one from the operating system. A token depends only on the
            seed, the number of its sequence (prompt index * num_return_sequences + output index), its step and the logits:
            not on `batch_size` or `workers`, nor on the order in which sequences run.
        prefix: with an encoder, the decoder's own first tokens: one string or id sequence for all prompts, or a list with one
            for each; default BOS. For an `Ensemble` a dict by its members gives each member its own prefix.
        context: the values of the model's contexts, one for each prompt and the same at every step: ``{input name: array
            [prompts, ...]}``, or the array alone where there is one context; a list of arrays where they differ in length.
            A step context has a value for each token, [prompts, tokens, ...]: token t of a sequence, counted from the first
            of its prompt (BOS is token 0), reads value t, and the output ends with the last value ("length").
            The name of a state sets its initial state: an array [prompts, ...] of the state's shape without its batch axis.
        latents: values of the model's latents, one for each prompt, or one for each of its sequences: ``{input name: array}``, the
            array alone where there is one latent, or a list of the `latent` of hypotheses. Default: drawn by the seed. A
            latent that is drawn anew at every step takes [steps, ...] for each.
        processors: callables ``f(history, logits)`` that edit the logits, float32 [rows, V], in place; see
            `decoding.processors`. Constraints are given among them: `Regex`, `JSONSchema`, `Grammar`, `Choices`.
        step_inputs: a function that computes contexts anew for each step: ``f(history) -> {input name: array [rows, ...]}``;
            `history` is a `History` whose rows end with the token that this step feeds.
        teacher: an id sequence for each prompt: at each step its token is fed next with probability `teacher_ratio`,
            else the model's own choice (scheduled sampling, Bengio et al. 2015).
        teacher_ratio: that probability, from 0 to 1.
        logprobs: how many of the best log-probabilities to return for each new token.
        return_attention: return the weights over the source with which each token was chosen, float32 [tokens, source].
        return_state: return the state after each output, from which `Request(state=...)` continues.
        return_member_logprobs: with an `Ensemble`, return the log-probability of each new token under each member alone. They are
            computed after the outputs, in one more reading of each.
        batch_size: rows that run together, in each worker; default at most 128.
        workers: threads with a batch each; default from the number of prompts, the batch size and the size of the network.
        progress: show a bar with sequences and tokens a second.

    Returns:
        `len(prompts) * num_return_sequences` hypotheses, ordered by prompt, the best of each prompt first. A search that
        finds different sequences (`Beam`, `Sample(replacement=False)`) returns fewer where there are no more.

    Raises:
        OptionError: an argument is wrong.
        ModelError: the model cannot be loaded or run.
        DecodeError: logits are NaN or leave no token to choose, or the network cannot run a step; names the sequence and the step.
    """
    model = loaded(model)
    check_flag("progress", progress)
    call = make_call(
        model,
        strategy,
        lenient=has_requests(prompts),
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
        return_state=return_state,
        return_member_logprobs=return_member_logprobs,
    )
    call, requests = _requests(model, call, prompts, prefix, context, latents)
    rows, edited = sum(r.settings.rows_per_request for r in requests), any(r.settings.processors for r in requests)
    workers = choose_workers(model, call, workers, rows, processors=edited)
    for settings in dict.fromkeys(r.settings for r in requests):
        check_memory(model, call, workers, len(requests), taught=teacher is not None, settings=settings)
    call, requests = with_teacher(model, call, requests, teacher, teacher_ratio)
    finished = decode_requests(model._network, call, requests, workers)
    watched: Iterable[FinishedSequence] = finished
    if progress:
        watched = with_bar(finished, sum(r.settings.outputs for r in requests))
    groups = sorted(by_prompt(model._network, call, watched), key=lambda group: group[0].prompt_index)
    return Decoded([hypothesis for group in groups for hypothesis in group])


def stream(
    model: Model | str | Path,
    prompts: Sources = None,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    prefix: Prompts = None,
    context: Context = None,
    latents: Latents = None,
    **options: Unpack[Options],
) -> Outputs[TokenEvent]:
    """Continue every prompt as `decode()` does, and yield each token as soon as it is chosen.

    The texts of a sequence's events join to its text from `decode()`: a character of several tokens comes with the last.

    Takes the arguments of `decode()` but teacher, teacher_ratio, workers and progress. `Beam` and `Sample(replacement=False)`
    are refused: they know no token before the end. Errors are those of `decode()`. The iterator has `close()` and is a context
    manager; a next() while another one runs is a DecodeError.
    """
    model = loaded(model)
    check_names("stream", options)
    call = make_call(model, strategy, lenient=has_requests(prompts), **options)
    call, requests = _requests(model, call, prompts, prefix, context, latents)
    for settings in dict.fromkeys(r.settings for r in requests):
        if settings.strategy.searches_together:
            raise OptionError(
                f"strategy={shown(settings.strategy)}: it knows no token before the end; use decode(), or another strategy"
            )
        check_memory(model, call, 1, len(requests), settings=settings)
    return Outputs("stream", _token_events(model._network, call, requests))


def decode_iter(
    model: Model | str | Path,
    prompts: Iterable[Any],
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    prefix: str | Sequence[int] | None = None,
    workers: int = 1,
    progress: bool = False,
    **options: Unpack[Options],
) -> Outputs[Hypothesis]:
    """Continue the prompts of an iterable, which may be endless, in the memory of `batch_size` rows.

    A prompt is taken when a row of the batch gets free; with an encoder prompts are sources, encoded a few at a time as they are
    taken, and `prefix` holds for all of them. A prompt may be a `Request` with its own options. The hypotheses of a prompt come when all of them are finished, best
    first, and `prompt_index` is the prompt's number. Takes the arguments of `decode()` but context, latents, teacher
    and teacher_ratio; a temperature is one number, and `workers` is 1 unless given. Errors are those of `decode()`.

    Results come as they finish, also while `prompts` blocks, as one that reads a queue does: unless it is a list, it is read in a
    thread of its own, at most `batch_size` prompts (for each worker) ahead. It must not take results itself: that is a DecodeError.
    The iterator has `close()`, which stops all threads, and is a context manager.
    """
    model = loaded(model)
    check_names("decode_iter", options)
    check_flag("progress", progress)
    call = make_call(model, strategy, **options)
    # Requests with options of their own may come at any time.
    call = replace(call, mixed=True, attention=model._network.contract.attention is not None, latents=_latents(model))
    requests = requests_of_iterable(model, call, prompts, prefix)
    workers = check_workers(model, workers)
    check_memory(model, call, workers, None)
    if isinstance(prompts, Sequence):  # it does not block
        finished = decode_requests(model._network, call, requests, workers)
    else:
        finished = decode_iterable(model._network, replace(call, live=True), requests, workers)
    return Outputs("decode_iter", _hypotheses(model._network, call, finished, progress))


def score(
    model: Model | str | Path,
    sequences: Prompts,
    *,
    prompts: Sources = None,
    prefix: Prompts = None,
    context: Context = None,
    latents: Latents = None,
    seed: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[npt.NDArray[np.float32]]:
    """Return the log-probability (natural logarithm) of every token of given sequences, given the tokens before it.

    Args:
        model: as in `decode()`.
        sequences: strings or ids, in any form that `decode()` takes as prompts.
        prompts: with an encoder, the source of each sequence, or one for all of them. With an `Ensemble` without encoders, the
            prompts that the sequences come after, as in `decode()`, by member or not; they are not scored.
        prefix: with an `Ensemble` that has encoders, the decoder's tokens that the sequences come after, as in `decode()`.
        context, latents: as in `decode()`, one entry for each sequence; latents that are not given are drawn by `seed`. A step
            context needs a value for each token but the last.
        seed: key of those draws, as in `decode()`.
        batch_size: sequences that run together; default at most 128.
        progress: show a bar with tokens and tokens a second.

    Returns:
        A float32 array for each sequence, one value a token. The first token is scored after the model's BOS; without a
        BOS nothing comes before it, and its value is NaN.

    Raises:
        OptionError: an argument is wrong.
        ModelError: the model cannot be loaded or run.
        DecodeError: logits are NaN, infinite or all -inf, or the network cannot run a step.
    """
    model = loaded(model)
    check_flag("progress", progress)
    call = make_call(model, Greedy(), seed=seed, batch_size=batch_size)
    if has_requests(sequences):
        raise OptionError(
            "sequences: score() has no Request, as there is nothing to decode; pass their prompts instead"
        )
    ids, starts, sources = read_sequences(model, sequences, prompts, prefix, "score")
    requests = make_requests(model, call, starts, sources, context, ids)
    call, requests = with_latents(model, call, requests, latents)
    requests = [r for _, r in with_latents_of(call.latents, enumerate(requests), model._network.contract)]
    with (
        using(model._network),
        token_bar(sum(len(r.ids) - (r.start if r.prefixes else 1) for r in requests), progress) as bar,
    ):
        scores = score_sequences(model._network, call, requests, bar.update)
    # Nothing comes before a first token without BOS; and a prompt that comes before is not scored.
    padded = [np.concatenate([np.array([np.nan], np.float32), scores[i]]) for i in range(len(ids))]
    return [values[len(values) - len(own) :] for values, own in zip(padded, ids, strict=True)]


def rollout(
    model: Model | str | Path,
    sequences: Prompts,
    reward: Reward | ModelFile,
    *,
    n: int,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    strategy: Strategy = Sample(),  # noqa: B008 - frozen
    eos_token_id: int | Sequence[int] | FromModel | None = "model",
    pad_token_id: int | None = None,
    prompts: Sources = None,
    prefix: Prompts = None,
    context: Context = None,
    latents: Latents = None,
    processors: Processors = (),
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> npt.NDArray[np.float64]:
    """Return Monte-Carlo action values of sequences: how good their continuations are after each of their tokens.

    As in SeqGAN (Yu et al. 2017, equation 4): entry t of a row is the mean reward of `n` completions that the model samples after
    token t; the last entry is the reward of the sequence itself. The state after each prefix is computed once for all
    sequences, and the completions of all positions share one batch, which is refilled as they finish.

    Args:
        model: the policy that completes the sequences, as in `decode()`.
        sequences: strings or ids, in any form that `decode()` takes as prompts; a list may have `Request` objects, whose
            prompt is the sequence, with its own strategy, seed and processors. The first token comes after the model's
            BOS, if it has one, as in `score()`. A sequence ends with its first EOS (which `decode()` leaves out of `tokens`);
            what follows is padding.
        reward: a function from ids int64 [N, width] to N rewards, called with at most 128 rows at a time; or a
            discriminator in an ONNX file: a `Discriminator`, or the path that it takes.
        n: completions of each prefix.
        max_new_tokens: longest completion in tokens, EOS included; default up to the length of the longest sequence.
        seed: as in `decode()`; the draws differ from those of `decode()` with the same seed. The values do not depend on
            `batch_size` or `workers`.
        strategy: how completions are drawn: `Sample(...)`, `TopN(n)`, or `Greedy()` with n=1.
        eos_token_id: as in `decode()`.
        pad_token_id: fills the reward's rows after their EOS; default the model's, else its first EOS, else 0.
        prompts, prefix: as in `score()`.
        context, latents: as in `decode()`, one entry for each sequence; latents that are not given are drawn by `seed`.
        processors: as in `decode()`; the prefix of a completion counts as its prompt, but constraints go on with its text.
        batch_size: completions that run together, in each worker; default at most 128.
        workers: threads with a batch each; default as in `decode()`.
        progress: show a bar with completions and tokens a second.

    Returns:
        float64 [B, T], T the length of the longest sequence (of a 2-D array: its width). From the end of a shorter sequence
        on, the entries are the reward of the sequence itself: mask them where a loss sums over tokens. The reward's rows
        are T wide, or T - 1 + max_new_tokens where that is more.

    Raises:
        OptionError: an argument is wrong, or the reward does not return a number for each row.
        ModelError: the model or the discriminator cannot be loaded or run.
        DecodeError: logits are NaN or leave no token to choose.
    """
    model = loaded(model)
    check_flag("progress", progress)
    ids, starts, sources = read_sequences(model, sequences_of(sequences), prompts, prefix, "complete")
    call = make_call(
        model,
        strategy,
        max_new_tokens=max(2, *map(len, ids)) - 1 if max_new_tokens is None else max_new_tokens,
        eos_token_id=eos_token_id,
        seed=seed,
        processors=processors,
        batch_size=batch_size,
    )
    if any(f.draw.every == "step" for f in model.latents):
        raise OptionError(
            f"rollout: {model.name} draws latents at every step, and those of the given sequences are not known; "
            "decode() continues prompts"
        )
    requests = with_own_options(model, call, make_requests(model, call, starts, sources, context, ids), sequences)
    own, requests = with_latents(model, call, requests, latents)
    # All completions of a sequence share its latents.
    requests = [r for _, r in with_latents_of(own.latents, enumerate(requests), model._network.contract)]
    episodes = make_episodes(model, call.settings, requests, max_new_tokens, pad_token_id)
    for settings in dict.fromkeys(r.settings for r in requests):
        outputs = check_completions(settings, n)
    call = replace(call, settings=replace(call.settings, outputs=outputs), mixed=has_requests(sequences))
    prefixes = episodes.length * len(ids)
    edited = any(r.settings.processors for r in requests)
    workers = choose_workers(model, call, workers, prefixes * outputs, processors=edited)
    check_memory(model, call, workers, prefixes, ids=8 * episodes.width * min(len(ids), 128))
    return action_values(model._network, call, episodes, _reward(reward), workers, with_bar if progress else None)


def _requests(
    model: Model, call: Call, prompts: Any, prefix: Any, context: Any, latents: Any
) -> tuple[Call, list[EngineRequest]]:
    """Return a request for each prompt, and the call with what they need."""
    if has_requests(prompts):
        requests = mixed_requests(model, call, prompts, prefix, context, latents)
        attention = any(r.settings.return_attention for r in requests)
        return replace(call, mixed=True, attention=attention, latents=_latents(model)), requests
    starts, sources = read_prompts(model, prompts, prefix, context)
    return with_latents(model, call, make_requests(model, call, starts, sources, context), latents)


def _latents(model: Model) -> DrawnLatents | None:
    return DrawnLatents(model._network.latent_families) if model.latents else None


def _reward(reward: Reward | ModelFile) -> Reward:
    """Return the function that rewards, or the discriminator of a file.

    Raises:
        OptionError: it is a class, as one that was not called is.
        ModelError: it is neither a function nor a file.
    """
    if isinstance(reward, type):
        raise OptionError(f"reward: {reward.__name__} is a class; pass a function of ids, or an object that is called")
    return reward if callable(reward) else Discriminator(reward)


def _hypotheses(
    network: Network, call: Call, finished: Generator[FinishedSequence], progress: bool
) -> Generator[Hypothesis]:
    """Yield the hypotheses of each prompt; closing this closes the search, whoever else holds it."""
    with closing(finished):
        watched = with_bar(finished, None) if progress else finished
        for group in by_prompt(network, call, watched):
            yield from group


def _token_events(network: Network, call: Call, requests: list[EngineRequest]) -> Generator[TokenEvent]:
    """Decode the requests in one thread and yield every token as it is chosen."""
    with using(network):
        yield from _choices(network, call, requests)


def _choices(network: Network, call: Call, requests: list[EngineRequest]) -> Generator[TokenEvent]:
    for group in alike(network.contract, requests, len(requests)):
        own = list(group)
        rows = min(call.batch_size, sum(r.settings.outputs for r in own))
        search = SamplingSearch(network, call, queue_requests(network, call, own, rows), rows)
        events = Events(call.tokenizer)
        for choice in search.choices():
            request, sequence = choice.request, choice.sequence
            output = sequence - request.first
            yield events.of(
                request.index, output, sequence, choice.token, choice.logprob, choice.finish_reason, choice.top
            )
