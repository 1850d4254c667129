"""Combines the logits of an ensemble's members into one row of scores for each row of the batch."""

from __future__ import annotations

from collections.abc import Sequence

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
    normalized = [_log_softmax(values, own) for values, own in zip(logits, scratch, strict=False)]
    weighted_logits(normalized, weights, out, scratch[-1])


def mixed_logprobs(logits: Sequence[Array], weights: Sequence[float], out: Array, scratch: Sequence[Array]) -> None:
    """Write the logarithm of the weighted mean of probabilities.

    Args:
        weights: at least 0, with a sum above 0.
        scratch: an array like `out` for each member, and one more.
    """
    total = sum(weights)
    counted = [
        (values, weight / total, own) for values, weight, own in zip(logits, weights, scratch, strict=False) if weight
    ]
    sums = scratch[-1]
    for number, (values, weight, own) in enumerate(counted):
        _log_softmax(values, own)
        np.exp(own, out=sums if number == 0 else out)
        np.multiply(sums if number == 0 else out, np.float32(weight), out=sums if number == 0 else out)
        if number:
            np.add(sums, out, out=sums)
    with np.errstate(divide="ignore"):
        np.log(sums, out=out)
    small = ~(out >= _SMALL)
    if small.any():
        parts = [own[small] + np.float32(np.log(weight)) for _, weight, own in counted]
        out[small] = np.logaddexp.reduce(parts, axis=0)


def _log_softmax(logits: Array, out: Array) -> Array:
    """Return log-probabilities; a row that has none is all NaN, or all -inf where every token is forbidden.

    Rows that no request has any more run along, so that a wrong one is the business of the search, which knows whose it is.
    """
    try:
        return kernels.log_softmax(logits, out=out)
    except DecodeError:
        for row, values in enumerate(logits):
            try:
                kernels.log_softmax(values[None], out=out[row : row + 1])
            except DecodeError:
                out[row] = -np.inf if (values == -np.inf).all() else np.nan
        return out
