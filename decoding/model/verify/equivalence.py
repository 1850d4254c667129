"""Whether two graphs compute the same: stepping and the original's whole-sequence run, or two sessions over one step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import State
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import INT8_OPS, Array
from decoding.model.runtime.native import NativeSession
from decoding.model.runtime.session import Session


class NotSteppable(ModelError):
    """Single steps do not give the scores of a run over the whole sequence."""


# Random prefixes that are stepped: batch x length. The longest reaches past the windows that pooled models are trained with
# (textgenrnn: 40), which shorter prefixes cannot tell from a recurrent state.
VERIFICATION_RUNS = ((1, 1), (1, 2), (2, 7), (7, 48))
# For graphs that have only a few positions.
_SHORT = 16


def gives_probabilities(session: Session, contract: Contract) -> bool:
    """Return whether the scores of random tokens are non-negative and sum to one."""
    ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (8, 1))
    scores = whole_run(session, contract, ids)
    return bool((scores >= 0).all() and np.allclose(scores.sum(-1), 1, atol=1e-2))


def whole_run(session: Session | NativeSession, contract: Contract, ids: Array) -> Array:
    """Logits [B, T or 1, V] of one run over whole sequences `ids` [B, T], from the initial states."""
    feeds = {**contract.feeds(ids), **contract.initial_states(len(ids), contract.probe_contexts(len(ids)))}
    return contract.logits.arrange(session.run(feeds, [contract.logits.name])[0])


def stepped_run(session: Session | NativeSession, contract: Contract, ids: Array) -> Array:
    """Logits [B, T, V] of single steps over `ids` [B, T], the states carried from each to the next."""
    states = contract.initial_states(len(ids), contract.probe_contexts(len(ids)))
    names = [contract.logits.name, *(s.output for s in contract.states)]
    steps = []
    for t in range(ids.shape[1]):
        scores, *after = session.run({**contract.feeds(ids[:, t : t + 1], t), **states}, names)
        states = {s.input: value for s, value in zip(contract.states, after, strict=True)}
        steps.append(contract.logits.arrange(scores)[:, -1])
    return np.stack(steps, axis=1)


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
    run = stepped_run if contract.window is None else whole_run
    return difference(run(session, contract, ids), run(original, contract, ids))


def verify_stepping(
    session: Session,
    contract: Contract,
    original: Session,
    whole: Contract,
    kind: str,
    fixed: tuple[int | None, int | None],
    tolerance: float,
) -> tuple[tuple[int, int], ...]:
    """Step through random prefixes and compare the scores with the original's whole-sequence run.

    Args:
        session: the prepared step graph, with its `contract`.
        original: the exported graph, with dynamic shapes and an int64 token.
        whole: the original's contract: the same without the states that it hides.
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
    runs = _runs_that_work(original, whole, fixed)
    for batch, length in runs:
        ids = rng.integers(0, contract.logits.vocab_size, (batch, length))
        expected = whole_run(original, whole, ids).astype(np.float64)
        found = as_kind(stepped_run(session, contract, ids)[:, -expected.shape[1] :].astype(np.float64), kind)
        if found.shape != expected.shape:
            raise NotSteppable(
                f"{session.name}: for {batch} sequences of {length} tokens the whole-sequence run returns {list(expected.shape)} where "
                f"{list(found.shape)} was expected; the number of time steps seems fixed in the file: export it with a dynamic time axis"
            )
        if np.isnan(expected).any(axis=-1).all():
            return ()  # decode() will say at which step
        off = difference(found, expected)
        if not off <= tolerance:
            raise NotSteppable(
                f"{session.name}: stepping differs from the whole-sequence run by {off:.1e} (relative) on {batch} random sequences of {length} tokens, more than "
                f"{tolerance:.0e}: the network mixes time steps otherwise than through the states {', '.join(s.input for s in contract.states)}"
            )
    return runs


def difference(found: Array, expected: Array) -> float:
    """The largest difference, relative to the scores of its position.

    A score that is infinite or NaN in `expected` does not count; NaN or infinity where `expected` has a number does.
    """
    known = np.isfinite(expected)
    scale = 1 + np.abs(np.where(known, expected, 0)).max(axis=-1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        off = np.where(known, np.abs(found - expected) / scale, 0)
    return float(np.nan_to_num(off, nan=np.inf).max(initial=0))


def _runs_that_work(
    original: Session, whole: Contract, fixed: tuple[int | None, int | None]
) -> tuple[tuple[int, int], ...]:
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
                whole_run(original, whole, np.zeros((b, t), np.int64))
        except ModelError as error:
            failure = error
        else:
            return runs
    raise ModelError(
        f"{original.name}: the original cannot be run over whole sequences, so stepping cannot be verified: {failure}; pass verify=False to load it unverified"
    ) from failure


def as_kind(scores: Array, kind: str) -> Array:
    """Logits as scores of another kind: "logits", "probs" or "logprobs"."""
    if kind == "logits":
        return scores
    scores = scores - scores.max(axis=-1, keepdims=True)
    logprobs: Array = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return np.exp(logprobs) if kind == "probs" else logprobs
