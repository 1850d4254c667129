"""decode() and stream(): check what was asked, fill in defaults, hand it to an engine."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from decoding.engine.sampling import Finished, Job, SamplingSearch
from decoding.errors import OptionError
from decoding.model.loading import load
from decoding.model.model import Model
from decoding.prompts import encode_prompts
from decoding.results import Decoded, Hypothesis
from decoding.strategies import Greedy, Sample, Strategy

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | None
FromModel = Literal["model"]

# Rows that run together unless the caller says otherwise; see docs/architecture.md for the measurement.
DEFAULT_BATCH_SIZE = 128
DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class TokenEvent:
    """One token of one running sequence, as it is made.

    Attributes:
        prompt_index: which prompt it continues.
        output_index: which of the prompt's outputs it belongs to.
        token: the id; EOS is an event too.
        text: the token as text, None without a tokenizer and for EOS.
        logprob: the model's own log-probability of the token.
        finish_reason: why the sequence ended with this token, None while it goes on.
    """

    prompt_index: int
    output_index: int
    token: int
    text: str | None
    logprob: float
    finish_reason: str | None


def decode(
    model: Model | str | Path,
    prompts: Prompts = None,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    max_new_tokens: int | None = None,
    eos_token_id: int | Sequence[int] | FromModel | None = "model",
    num_return_sequences: int = 1,
    seed: int | None = None,
    batch_size: int | None = None,
) -> Decoded:
    """Continue every prompt with the model.

    Args:
        model: what `load()` gave, or what it takes.
        prompts: a string, a list of strings, one sequence of ids, a list of id sequences of any lengths, a 2-D integer
            array, or None to start from BOS. Strings are tokenized, with the model's BOS (if it has one) in front;
            ids are taken as they are.
        strategy: `Greedy()` or `Sample(...)`.
        max_new_tokens: longest output, EOS included; default the model's own, else 256.
        eos_token_id: id that ends a sequence, or several; None never stops at a token; default the model's.
        num_return_sequences: outputs for each prompt.
        seed: key of the random draws, 0 to 2**64 - 1; None takes one from the operating system. A token depends only on the
            seed, the sequence's place (prompt_index * num_return_sequences + output index), its step and the logits:
            not on `batch_size`, nor on the order in which sequences run.
        batch_size: rows that run together; default at most 128.

    Returns:
        `len(prompts) * num_return_sequences` hypotheses, ordered by prompt, the best of each prompt first.

    Raises:
        OptionError: an argument is wrong.
        ModelError: the model cannot be loaded or run.
        DecodeError: logits are NaN or leave no token to choose; names the sequence and the step.
    """
    model = _loaded(model)
    job = _make_job(model, prompts, strategy, max_new_tokens, eos_token_id, num_return_sequences, seed, batch_size)
    return _ranked(model, job, SamplingSearch(model, job).run())


def stream(
    model: Model | str | Path,
    prompts: Prompts = None,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    max_new_tokens: int | None = None,
    eos_token_id: int | Sequence[int] | FromModel | None = "model",
    num_return_sequences: int = 1,
    seed: int | None = None,
    batch_size: int | None = None,
) -> Iterator[TokenEvent]:
    """As `decode()`, giving every token as it is made. Arguments and errors are the same."""
    model = _loaded(model)
    job = _make_job(model, prompts, strategy, max_new_tokens, eos_token_id, num_return_sequences, seed, batch_size)
    return _token_events(model, job)


def _loaded(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load(model)


def _make_job(model: Model, prompts: Prompts, strategy: Strategy, max_new_tokens: int | None, eos_token_id: Any,
              num_return_sequences: int, seed: int | None, batch_size: int | None) -> Job:  # fmt: skip
    """Check every option, so that what is wrong is said before the first step."""
    ids = encode_prompts(model, prompts)
    outputs = at_least("num_return_sequences", num_return_sequences, 1)
    if not isinstance(strategy, Greedy | Sample):
        raise OptionError(
            f"strategy={strategy!r}: expected a strategy object such as Greedy() or Sample(temperature=0.8)"
        )
    if isinstance(strategy, Greedy) and outputs > 1:
        raise OptionError(
            f"num_return_sequences={outputs}: Greedy() has one output for each prompt; use Sample() for several"
        )
    if max_new_tokens is None:
        max_new_tokens = model.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    return Job(
        prompts=ids,
        outputs=outputs,
        temperature=_temperatures(strategy, len(ids)),
        seed=_checked_seed(seed),
        eos=_checked_eos(model, eos_token_id),
        max_new_tokens=at_least("max_new_tokens", max_new_tokens, 1),
        batch_size=DEFAULT_BATCH_SIZE if batch_size is None else at_least("batch_size", batch_size, 1),
    )


def at_least(name: str, value: Any, low: int) -> int:
    """`value` as an int that is `low` or more, else an OptionError that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low:
        raise OptionError(f"{name}={value!r}: expected a whole number of at least {low}")
    return number


def _temperatures(strategy: Strategy, prompts: int) -> npt.NDArray[np.float32] | None:
    if isinstance(strategy, Greedy):
        return None
    values = np.asarray(strategy.temperature, np.float32)
    if values.ndim == 1 and len(values) != prompts:
        raise OptionError(
            f"Sample(temperature=array of {len(values)}): expected one number, or one for each of the {prompts} prompts"
        )
    return np.array(np.broadcast_to(values, prompts))


def _checked_seed(seed: int | None) -> int:
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    if at_least("seed", seed, 0) >= 2**64:
        raise OptionError(f"seed={seed}: expected a whole number below 2**64")
    return int(seed)


def _checked_eos(model: Model, eos_token_id: Any) -> tuple[int, ...]:
    if eos_token_id is None:
        return ()
    if isinstance(eos_token_id, str) and eos_token_id == "model":
        return model.eos_token_id
    ids = tuple(eos_token_id) if np.ndim(eos_token_id) else (eos_token_id,)
    for token in ids:
        if at_least("eos_token_id", token, 0) >= model.vocab_size:
            raise OptionError(f"eos_token_id={token}: the model's ids go from 0 to {model.vocab_size - 1}")
    return tuple(int(token) for token in ids)


def _ranked(model: Model, job: Job, finished: Iterator[Finished]) -> Decoded:
    """Finished rows as hypotheses, ordered by prompt, the best of each prompt first."""
    rows = sorted(finished, key=lambda f: f.sequence)
    totals = [float(np.sum(f.logprobs, dtype=np.float64)) for f in rows]
    out = []
    for prompt in range(len(job.prompts)):
        own = range(prompt * job.outputs, (prompt + 1) * job.outputs)
        for rank, i in enumerate(sorted(own, key=lambda i: -totals[i])):
            f = rows[i]
            out.append(Hypothesis(prompt, rank, totals[i], totals[i], f.reason, f.logprobs, f.tokens, model.tokenizer))
    return Decoded(out)


def _token_events(model: Model, job: Job) -> Iterator[TokenEvent]:
    for choice in SamplingSearch(model, job).choices():
        text = None if model.tokenizer is None or choice.reason == "eos" else model.tokenizer.decode([choice.token])
        yield TokenEvent(*divmod(choice.sequence, job.outputs), choice.token, text, choice.logprob, choice.reason)
