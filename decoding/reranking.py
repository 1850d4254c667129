"""Orders finished outputs by a reward, or by minimum Bayes risk: the likeliest is not always the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from decoding.errors import OptionError, shown
from decoding.results import Decoded, Hypothesis

Values = npt.NDArray[np.float64]
Reward = Callable[[Decoded], npt.ArrayLike]
Similarity = Callable[[Hypothesis, Hypothesis], float]


@overload
def rerank(hypotheses: Decoded, reward: Reward) -> Decoded: ...
@overload
def rerank(hypotheses: list[Hypothesis], reward: Reward) -> list[Hypothesis]: ...
def rerank(hypotheses: Decoded | list[Hypothesis], reward: Reward) -> Decoded | list[Hypothesis]:
    """Order the outputs of each prompt by a reward, the greatest first; of equal ones the earlier stays in front.

    Args:
        hypotheses: what `decode()` returned, or a list of hypotheses, also of several calls; those of one `prompt_index`
            compete.
        reward: called once with all of them as a `Decoded`; returns a number for each. A reward of padded ids calls
            ``batch.padded(fill)``: ``rerank(out, lambda batch: discriminator(batch.padded(0)))``.

    Returns:
        The same hypotheses, a `Decoded` for a `Decoded`, else a list; `score` is the reward and `rank` the new
        rank. Prompts stay in their order, and all else is as it was.

    Raises:
        OptionError: the reward does not return a number for each, or returns NaN.
    """
    batch = _batch(hypotheses)
    if isinstance(reward, type):
        raise OptionError(f"reward: {reward.__name__} is a class; pass a function, or an object that is called")
    if not callable(reward):
        raise OptionError(
            f"reward: {type(reward).__name__} is not a function of a Decoded that returns a number for each output"
        )
    values = _numbers("reward", reward(batch), batch) if len(batch) else np.zeros(0)
    return _ordered(hypotheses, batch, values)


@overload
def mbr(
    hypotheses: Decoded, similarity: Similarity, *, weights: Literal["uniform", "probability"] = ...
) -> Decoded: ...
@overload
def mbr(
    hypotheses: list[Hypothesis], similarity: Similarity, *, weights: Literal["uniform", "probability"] = ...
) -> list[Hypothesis]: ...
def mbr(
    hypotheses: Decoded | list[Hypothesis],
    similarity: Similarity,
    *,
    weights: Literal["uniform", "probability"] = "uniform",
) -> Decoded | list[Hypothesis]:
    """Order the outputs of each prompt by minimum Bayes risk: first the one that is most like all the others.

    The expected similarity of a candidate is the mean of its similarities to all outputs of its prompt, itself included
    (Kumar & Byrne 2004; Eikema & Aziz 2020). n outputs of a prompt cost n * n calls of `similarity`.

    Args:
        hypotheses: as `rerank()` takes them.
        similarity: ``f(candidate, reference)``, greater where they are more alike; it need not be symmetric.
        weights: how much each output counts as a reference. "uniform": all the same, which is right for samples, as a
            sequence that was drawn twice counts twice. "probability": by the model's probability, normalised over
            the outputs of a prompt, which is right for outputs that are all different (`Beam`, `Sample(replacement=False)`).

    Returns:
        As `rerank()`; `score` is the expected similarity.

    Raises:
        OptionError: `weights` is neither, or a similarity is not a finite number.
    """
    if not callable(similarity) or isinstance(similarity, type):
        raise OptionError(
            f"similarity: {shown(similarity)} is not a function of two hypotheses that returns a number, greater for more alike ones"
        )
    if not isinstance(weights, str) or weights not in ("uniform", "probability"):
        raise OptionError(f"weights={shown(weights)}: expected 'uniform' or 'probability'")
    batch = _batch(hypotheses)
    expected = np.zeros(len(batch))
    for members in _members(batch):
        table = np.array([[_number(similarity, batch[a], batch[b]) for b in members] for a in members])
        expected[members] = table @ _weights(weights, [batch[i] for i in members])
    return _ordered(hypotheses, batch, expected)


def _batch(hypotheses: Any) -> Decoded:
    """Return the hypotheses as one `Decoded`, in their order."""
    if isinstance(hypotheses, Decoded):
        return hypotheses
    if not isinstance(hypotheses, Sequence) or not all(isinstance(h, Hypothesis) for h in hypotheses):
        raise OptionError(
            f"hypotheses: found {type(hypotheses).__name__}; expected what decode() returns, or a list of its hypotheses"
        )
    return Decoded(hypotheses)


def _members(batch: Decoded) -> list[list[int]]:
    """Return the positions of each prompt's outputs in the batch."""
    groups: dict[int, list[int]] = {}
    for position, hypothesis in enumerate(batch):
        groups.setdefault(hypothesis.prompt_index, []).append(position)
    return list(groups.values())


def _ordered(hypotheses: Sequence[Hypothesis], batch: Decoded, values: Values) -> Decoded | list[Hypothesis]:
    """Return the outputs of each prompt, the greatest value first, in the type that the hypotheses came in."""
    ordered = [
        replace(batch[i], score=float(values[i]), rank=rank)
        for members in _members(batch)
        for rank, i in enumerate(sorted(members, key=lambda i: -values[i]))
    ]
    return Decoded(ordered) if isinstance(hypotheses, Decoded) else ordered


def _weights(kind: str, members: Sequence[Hypothesis]) -> Values:
    logprobs = np.array([h.logprob if kind == "probability" else 0.0 for h in members])
    probabilities = np.exp(logprobs - logprobs.max())
    return np.asarray(probabilities / probabilities.sum())


def _numbers(name: str, given: Any, batch: Decoded) -> Values:
    """Return what a callable returned for a batch, as a float64 number for each hypothesis.

    Raises:
        OptionError: it returned something else.
    """
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise OptionError(f"{name} returned {type(given).__name__}: expected a number for each hypothesis") from error
    if values.shape != (len(batch),):
        raise OptionError(
            f"{name} returned an array of shape {list(values.shape)}: expected [{len(batch)}], a number for each hypothesis; it is "
            "called once, with all of them as a Decoded, whose padded(fill) is the array of their ids"
        )
    if np.isnan(values).any():
        h = batch[int(np.isnan(values).argmax())]
        raise OptionError(f"{name} returned NaN for output {h.rank} of prompt {h.prompt_index}: NaN cannot be ordered")
    return values


def _number(similarity: Similarity, candidate: Hypothesis, reference: Hypothesis) -> float:
    value: Any = similarity(candidate, reference)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = np.nan
    if not np.isfinite(number):
        raise OptionError(
            f"similarity returned {shown(value)} for outputs {candidate.rank} and {reference.rank} of prompt {candidate.prompt_index}: "
            "expected a finite number"
        )
    return number
