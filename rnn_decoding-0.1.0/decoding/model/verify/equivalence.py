"""Whether two graphs compute the same: stepping and the original's whole-sequence run, or two sessions over one step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import State
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import INT8_OPS, Array
from decoding.model.runtime.native import NativeSession
from decoding.model.runtime.session import Session
from decoding.model.verify.whole_runs import WholeRuns, whole_run


class NotSteppable(ModelError):
    """Single steps do not give the scores of a run over the whole sequence."""


# Random prefixes that are stepped: batch x length. The longest reaches past the windows that pooled models are trained with
# (textgenrnn: 40), which shorter prefixes cannot tell from a recurrent state.
VERIFICATION_RUNS = ((1, 1), (1, 2), (2, 7), (7, 48))
# For graphs that have only a few positions.
_SHORT = 16
# Scores that are compared at once: in float64, with what comparing takes, 50 MiB.
_BLOCK = 1 << 20


def gives_probabilities(session: Session, contract: Contract) -> bool:
    """Return whether the scores of random tokens are non-negative and sum to one."""
    ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (8, 1))
    scores = whole_run(session, contract, ids)
    return bool((scores >= 0).all() and np.allclose(scores.sum(-1), 1, atol=1e-2))


def stepped_run(session: Session | NativeSession, contract: Contract, ids: Array) -> Array:
    """Logits [B, T, V] of single steps over `ids` [B, T], the states carried from each to the next."""
    return np.stack(list(steps_of(session, contract, ids)), axis=1)


def steps_of(session: Session | NativeSession, contract: Contract, ids: Array) -> Iterator[Array]:
    """The logits [B, V] of each step over `ids` [B, T], one after the other."""
    states = contract.initial_states(len(ids), contract.probe_contexts(len(ids)))
    names = [contract.logits.name, *(s.output for s in contract.states)]
    for t in range(ids.shape[1]):
        found = session.run({**contract.feeds(ids[:, t : t + 1], t), **states}, names)
        states = {s.input: value for s, value in zip(contract.states, found[1:], strict=True)}
        # Out of the list: this frame would hold the scores during the next run.
        yield contract.logits.arrange(found.pop(0))[:, -1]


def same_step(a: Session, b: Session, contract: Contract, within: float = 1e-4) -> bool:
    """Return whether both give the same scores and states, for random ids and states other than zero, of one row and of five."""
    names = [contract.logits.name, *(s.output for s in contract.states)]
    half = any(s.dtype == np.float16 for s in contract.states)
    for batch in (1, 5):
        ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (batch, 1))
        feeds = {**contract.feeds(ids), **{s.input: s.initial_rows(batch) + s.dtype.type(0.1) for s in contract.states}}
        try:
            pairs = zip(a.run(feeds, names), b.run(feeds, names), strict=True)
        except ModelError:
            return False
        near = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": within, "atol": within / 10}
        if not all(x.shape == y.shape and np.allclose(x, y, equal_nan=True, **near) for x, y in pairs):
            return False
    return True


def tolerance(graph: Graph, states: Sequence[State]) -> float:
    """The largest relative difference that two ways to the same logits may have, for the graph's number types.

    Int8 operators round their inputs, in onnxruntime's own quantization at a scale that a whole sequence shares: 0.09 was
    seen after 48 random tokens.
    """
    if any(node.op in INT8_OPS for node in graph.nodes):
        return 0.2
    return 2e-2 if any(s.dtype == np.float16 for s in states) else 1e-4


def change(session: Session | NativeSession, original: Session, contract: Contract) -> float:
    """The largest difference between the logits of two graphs of one contract on random prefixes, as `difference` measures it."""
    length = (contract.window and contract.window.size) or _SHORT
    ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (2, length))
    if contract.window is not None:
        return difference(whole_run(session, contract, ids), whole_run(original, contract, ids))
    steps = zip(steps_of(session, contract, ids), steps_of(original, contract, ids), strict=True)
    return max(difference(found, expected) for found, expected in steps)


def verify_stepping(
    session: Session,
    contract: Contract,
    whole: WholeRuns,
    kind: str,
    fixed: tuple[int | None, int | None],
    tolerance: float,
) -> tuple[tuple[int, int], ...]:
    """Step through random prefixes and compare the scores with the original's whole-sequence run.

    Args:
        session: the prepared step graph, with its `contract`.
        whole: runs of the exported graph, with dynamic shapes and an int64 token.
        kind: the original's scores: "logits", "probs" or "logprobs".
        fixed: batch and time that the export declares as numbers. Where the original runs with nothing else
            (its zeros have these sizes), they are the sizes that it is compared with.
        tolerance: largest difference accepted, relative to 1 + the largest magnitude at the position.

    Returns:
        Batch and length of each run that was compared; none where the original gives NaN at every position.

    Raises:
        NotSteppable: they differ.
        ModelError: the original cannot be run over whole sequences.
    """
    rng = np.random.default_rng(0)
    runs = _runs_that_work(whole, fixed)
    for batch, length in runs:
        ids = rng.integers(0, contract.logits.vocab_size, (batch, length))
        steps, off, undefined = steps_of(session, contract, ids), 0.0, True
        for piece in whole.pieces(ids):
            expected, shape = piece.scores, (batch, min(piece.total, length) or length, contract.logits.vocab_size)
            if (expected.shape[0], piece.total, *expected.shape[2:]) != shape:
                raise NotSteppable(
                    f"{session.name}: for {batch} sequences of {length} tokens the whole-sequence run returns {[len(expected), piece.total, *expected.shape[2:]]} where "
                    f"{list(shape)} was expected; the number of time steps seems fixed in the file: export it with a dynamic time axis"
                )
            skipped = length - piece.total if piece.first == 0 else 0  # it scores the last tokens alone
            scores = list(islice(steps, skipped, skipped + expected.shape[1]))
            found = np.stack(scores, axis=1) if len(scores) > 1 else scores[0][:, None]
            off = max(off, _differ(found, expected, kind))
            undefined = undefined and bool(np.isnan(expected).any(axis=-1).all())
            del piece, expected, scores, found  # before the next run
        if undefined:
            return ()  # decode() will say at which step
        if not off <= tolerance:
            raise NotSteppable(
                f"{session.name}: stepping differs from the whole-sequence run by {off:.1e} (relative) on {batch} random sequences of {length} tokens, more than "
                f"{tolerance:.0e}: the network mixes time steps otherwise than through the states {', '.join(s.input for s in contract.states)}"
            )
    return runs


def _differ(found: Array, expected: Array, kind: str) -> float:
    """The largest difference between logits and scores of a kind, in float64, a few positions at a time."""
    vocab = expected.shape[-1]
    found, expected = found.reshape(-1, vocab), expected.reshape(-1, vocab)
    rows = max(1, _BLOCK // vocab)
    blocks = [slice(at, at + rows) for at in range(0, len(found), rows)]
    return max(difference(as_kind(found[b].astype(np.float64), kind), expected[b].astype(np.float64)) for b in blocks)


def difference(found: Array, expected: Array) -> float:
    """The largest difference, relative to the scores of its position.

    A score that is infinite or NaN in `expected` does not count; NaN or infinity where `expected` has a number does.
    """
    known = np.isfinite(expected)
    # One array of the scores' size, written again and again: a position may have a million of them.
    off = np.where(known, expected, 0).astype(np.result_type(found, expected, np.float32), copy=False)
    np.abs(off, out=off)
    scale = 1 + off.max(axis=-1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        np.subtract(found, expected, out=off)
        np.abs(off, out=off)
        off /= scale
    off[~known] = 0
    off[np.isnan(off)] = np.inf
    return float(off.max(initial=0))


def _runs_that_work(whole: WholeRuns, fixed: tuple[int | None, int | None]) -> tuple[tuple[int, int], ...]:
    """VERIFICATION_RUNS; shorter ones, or those of the declared batch and time, where the original takes no others."""
    batch, time = fixed
    candidates = (
        VERIFICATION_RUNS,
        [(b, min(t, _SHORT)) for b, t in VERIFICATION_RUNS],
        [(batch or 1, t) for b, t in VERIFICATION_RUNS],
        [(batch or b, time or t) for b, t in VERIFICATION_RUNS],
    )
    for candidate in candidates:
        runs = tuple(dict.fromkeys(candidate))
        try:
            for b, t in runs:
                whole.check(np.zeros((b, t), np.int64))
        except ModelError as error:
            failure = error
        else:
            return runs
    raise ModelError(
        f"{whole.name}: the original cannot be run over whole sequences, so stepping cannot be verified: {failure}; pass verify=False to load it unverified"
    ) from failure


def as_kind(scores: Array, kind: str) -> Array:
    """Logits as scores of another kind: "logits", "probs" or "logprobs"."""
    if kind == "logits":
        return scores
    scores = scores - scores.max(axis=-1, keepdims=True)
    logprobs: Array = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return np.exp(logprobs) if kind == "probs" else logprobs
