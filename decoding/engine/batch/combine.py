"""Combines the logits of an ensemble's members into one row of scores for each row of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from decoding import kernels
from decoding.errors import DecodeError
from decoding.model.graph.types import Array

# Below this log-probability the sum of probabilities may have lost digits to the smallest float32.
_SMALL = -60.0


def weighted_logits(logits: Sequence[Array], weights: Sequence[float], out: Array, scratch: Array) -> None:
    """Write the weighted sum of logits: up to a number for each row, that of log-probabilities.

    A token that a member of any weight but 0 forbids (-inf) is forbidden, also where the weight is negative: no ratio to
    a probability of 0 is a preference.

    Args:
        logits: of each member, float32 [rows, V]; NaN and +inf make the sum NaN.
        scratch: of the same shape, to work in.
    """
    counted = [(values, weight) for values, weight in zip(logits, weights, strict=True) if weight]
    for number, (values, weight) in enumerate(counted):
        scaled = scratch if number else out
        np.multiply(values, np.float32(weight), out=scaled)
        if weight < 0 and (wrong := np.isinf(scaled)).any():
            scaled[wrong] = np.where(values[wrong] < 0, np.float32(-np.inf), np.float32(np.nan))
        if number:
            np.add(out, scaled, out=out)


def weighted_logprobs(logits: Sequence[Array], weights: Sequence[float], out: Array, scratch: Sequence[Array]) -> None:
    """Write the weighted sum of log-probabilities: arguments and rules as `weighted_logits()`, with a scratch array for each member, and one more."""
    normalized = [
        _normalized(kernels.log_softmax, values, own, -np.inf) for values, own in zip(logits, scratch, strict=False)
    ]
    weighted_logits(normalized, weights, out, scratch[-1])


def mixed_logprobs(logits: Sequence[Array], weights: Sequence[float], out: Array, scratch: Sequence[Array]) -> None:
    """Write the logarithm of the weighted mean of probabilities.

    Args:
        weights: at least 0, with a sum above 0.
        scratch: two arrays like `out`.
    """
    total, (probs, own) = sum(weights), scratch
    counted = [(values, weight / total) for values, weight in zip(logits, weights, strict=True) if weight]
    for number, (values, weight) in enumerate(counted):
        mean = own if number else probs
        np.multiply(_normalized(kernels.softmax, values, mean, 0), np.float32(weight), out=mean)
        if number:
            np.add(probs, own, out=probs)
    with np.errstate(divide="ignore"):
        np.log(probs, out=out)
    small = np.flatnonzero((out < _SMALL).any(axis=1))
    if len(small):
        parts = [
            _normalized(kernels.log_softmax, values[small], own[: len(small)], -np.inf) + np.float32(np.log(weight))
            for values, weight in counted
        ]
        out[small] = np.logaddexp.reduce(parts, axis=0)


def _normalized(kernel: Callable[..., Array], logits: Array, out: Array, nothing: float) -> Array:
    """Return what a kernel makes of the logits; a row of which it makes nothing is all NaN, or `nothing` where every token is forbidden.

    Rows that no request has any more run along, so that a wrong one is the business of the search, which knows whose it is.
    """
    try:
        return kernel(logits, out=out)
    except DecodeError:
        for row, values in enumerate(logits):
            try:
                kernel(values[None], out=out[row : row + 1])
            except DecodeError:
                out[row] = nothing if (values == -np.inf).all() else np.nan
        return out
