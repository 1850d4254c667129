"""Turns finished sequences into hypotheses, prompt by prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from decoding.engine.request import Call, FinishedSequence
from decoding.results import Hypothesis


def by_prompt(call: Call, finished: Iterable[FinishedSequence]) -> Iterator[list[Hypothesis]]:
    """Yield the hypotheses of each prompt, best first, as soon as all of them are finished."""
    waiting: dict[int, list[FinishedSequence]] = {}
    for one in finished:
        group = waiting.setdefault(one.request.index, [])
        group.append(one)
        if len(group) == one.siblings:
            del waiting[one.request.index]
            yield hypotheses(call, group, one.request.index)


def hypotheses(call: Call, group: list[FinishedSequence], prompt_index: int) -> list[Hypothesis]:
    """Return the outputs of one request, best first."""
    ranked = sorted(group, key=lambda f: (-f.score, f.sequence))
    found = [_hypothesis(call, prompt_index, rank, f) for rank, f in enumerate(ranked)]
    if call.latents is not None:
        call.latents.forget([_latent_key(f) for f in group])
    return found


def _latent_key(f: FinishedSequence) -> int:
    """Return the sequence whose latents a finished sequence has: where one search finds all outputs, they share theirs."""
    return f.request.first if f.request.settings.strategy.searches_together else f.sequence


def _hypothesis(call: Call, prompt: int, rank: int, f: FinishedSequence) -> Hypothesis:
    latent = None if call.latents is None else call.latents.of(_latent_key(f), len(f.logprobs))
    return Hypothesis(
        prompt_index=prompt,
        rank=rank,
        logprob=f.logprob,
        score=f.score,
        finish_reason=f.finish_reason,
        token_logprobs=f.logprobs,
        ids=f.tokens,
        _tokenizer=call.tokenizer,
        top_logprobs=f.top,
        teacher_logprobs=f.teacher,
        attention=f.attention,
        latent=latent,
        state=f.state,
    )


def with_bar(finished: Iterable[FinishedSequence], total: int | None) -> Iterator[FinishedSequence]:
    """Yield the same sequences and show a progress bar; `total` is None where their number is not known."""
    tokens, start = 0, time.monotonic()
    with tqdm(total=total, unit="seq") as bar:
        for one in finished:
            tokens += len(one.logprobs)
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - start, 1e-9):.0f} tokens/s", refresh=False)
            bar.update()
            yield one


def token_bar(total: int, progress: bool) -> tqdm:
    """Return a progress bar of tokens, which shows nothing without `progress`."""
    return tqdm(total=total, unit="token", unit_scale=True, disable=not progress)
