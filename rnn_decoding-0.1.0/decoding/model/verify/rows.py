"""Whether a step graph computes each row by itself: alone, among other rows, and in another place of the batch.

The states are random: with states of zero, a row that reads another row's state gives the right scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import PROBE_SIZE, State
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session
from decoding.model.verify.equivalence import difference, stepped_run

# The rows of a batch, then some of them in other places, then one alone.
_BATCHES = ((0, 1, 2, 3, 4), (3, 0, 4), (2,))
# Rows whose states are positive.
_POSITIVE = (0, 2)
_STEPS = 2
# Pairs of states that are exchanged: all of eight states.
_EXCHANGES = 28


class DependentRows(ModelError):
    """The scores of a row depend on the other rows of its batch."""


class _Results(NamedTuple):
    """What a run gives each row: scores [B, T, V], and the next states, each [B, numbers]."""

    scores: Array
    states: list[Array]


class _Trial:
    """A few steps of some rows, with random tokens, states and contexts.

    Args:
        states: [batch first] by name.
    """

    def __init__(self, session: Session, contract: Contract, states: Mapping[str, Array]) -> None:
        self._session, self._contract, self._states = session, contract, states
        rows = len(_BATCHES[0])
        self._past = PROBE_SIZE if any(s.grows for s in contract.states) else 0  # tokens that the states have
        self._ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (rows, _STEPS))

    def steps(self, rows: Sequence[int]) -> list[_Results]:
        """The results of these rows, step after step."""
        states = {name: value[list(rows)] for name, value in self._states.items()}
        found = []
        for t in range(_STEPS):
            results, states = self._run(rows, slice(t, t + 1), states)
            found.append(results)
        return found

    def together(self) -> _Results:
        """The results of all rows after one run over all tokens."""
        return self._run(_BATCHES[0], slice(0, _STEPS), self._states)[0]

    def _run(self, rows: Sequence[int], times: slice, states: Mapping[str, Array]) -> tuple[_Results, dict[str, Array]]:
        contract, places = self._contract, list(rows)
        ids, first = self._ids[places, times], self._past + times.start
        given = {
            aux.name: aux.value(contract.token, len(self._ids), ids.shape[1], first)[places]
            for aux in contract.row_inputs
        }
        feeds = contract.feeds(ids, first, given)
        feeds |= {s.input: np.ascontiguousarray(np.moveaxis(states[s.input], 0, s.batch_axis)) for s in contract.states}
        names = [contract.logits.name, *(s.output for s in contract.states)]
        scores, *after = self._session.run(feeds, names)
        sizes = {"B": len(places), "T": ids.shape[1], "V": contract.logits.vocab_size}
        if scores.shape != tuple(sizes[axis] for axis in contract.logits.layout):
            raise ModelError(
                f"{self._session.name}: for {len(places)} rows of {ids.shape[1]} tokens the output {contract.logits.name} has shape {list(scores.shape)}; "
                f"by other sizes it is {list(contract.logits.layout)} (batch, time, vocabulary): export the graph with outputs of one rank for every batch and time"
            )
        for state, value in zip(contract.states, after, strict=True):
            expected = list(feeds[state.input].shape)
            if state.grows and state.free_axis is not None:
                expected[state.free_axis] += ids.shape[1]
            if list(value.shape) != expected:
                raise ModelError(
                    f"{self._session.name}: for {len(places)} rows the state {state.output} has shape {list(value.shape)}; expected {expected}"
                )
        following = {
            s.input: np.moveaxis(value, s.batch_axis, 0) for s, value in zip(contract.states, after, strict=True)
        }
        flat = [value.reshape(len(places), -1) for value in following.values()]
        return _Results(contract.logits.arrange(scores), flat), following


def check_rows(session: Session, contract: Contract, tolerance: float) -> bool:
    """Check that rows are independent, and return whether one run over several tokens gives what as many steps give.

    Args:
        tolerance: largest difference accepted, relative to 1 + the largest magnitude of a row's scores or state.

    Raises:
        DependentRows: the results of a row change with the other rows, or with its place.
        ModelError: the graph does not run on these rows.
    """
    trial, steps = _first_that_runs(session, contract)
    for rows in _BATCHES[1:]:
        for found, expected in zip(trial.steps(rows), steps, strict=True):
            names = [f"the scores {contract.logits.name}", *(f"the state {state.output}" for state in contract.states)]
            _check_same(
                session.name, rows, names, [found.scores, *found.states], [expected.scores, *expected.states], tolerance
            )
    if contract.initial_state_graph is not None:
        _check_initial_states(session.name, contract, tolerance)
    return contract.sequence and _reads_several(trial, steps, tolerance)


def _reads_several(trial: _Trial, steps: Sequence[_Results], tolerance: float) -> bool:
    try:
        together = trial.together()
    except ModelError:
        return False
    scores = np.concatenate([step.scores for step in steps], axis=1)[:, -together.scores.shape[1] :]
    pairs = zip((together.scores, *together.states), (scores, *steps[-1].states), strict=True)
    return all(_off(found, expected) <= tolerance for found, expected in pairs)


def other_pairs(session: Session, contract: Contract, tolerance: float) -> dict[str, str] | None:
    """The states with the outputs of two exchanged, where only then a run over several tokens gives what as many steps give."""
    alike = [
        (a, b)
        for a, b in combinations(contract.states, 2)
        if (a.dtype, a.initial.shape, a.batch_axis) == (b.dtype, b.initial.shape, b.batch_axis)
    ]
    for a, b in alike[:_EXCHANGES]:
        exchanged = {a.input: b.output, b.input: a.output}
        states = tuple(replace(s, output=exchanged.get(s.input, s.output)) for s in contract.states)
        trial, steps = _first_that_runs(session, replace(contract, states=states))
        if _reads_several(trial, steps, tolerance):
            return {s.input: s.output for s in states}
    return None


def same_scores(session: Session, a: Contract, b: Contract, tolerance: float) -> bool:
    """Return whether two contracts of one graph give the same scores of random sequences, from the initial states."""
    ids = np.random.default_rng(0).integers(0, a.logits.vocab_size, (3, 2 * _STEPS))
    return _off(stepped_run(session, a, ids), stepped_run(session, b, ids)) <= tolerance


def _first_that_runs(session: Session, contract: Contract) -> tuple[_Trial, list[_Results]]:
    """The trial from random states and its steps; from initial states where the graph takes no others, as they are indices.

    Raises:
        ModelError: the graph does not run on these rows.
    """
    failure = None
    for kinds in ("fiub", "fb", ""):
        trial = _Trial(session, contract, _states(contract, kinds))
        try:
            return trial, trial.steps(_BATCHES[0])
        except ModelError as error:
            failure = failure or error
    raise failure or ModelError(session.name)


def _states(contract: Contract, random: str) -> dict[str, Array]:
    """States of all rows, batch first: random where the dtype's kind is in `random`, else the initial ones.

    Some rows have positive numbers: a state may be a divisor, or the argument of a logarithm. The others have numbers near
    zero, where no squashing function hides a difference.
    """
    rng = np.random.default_rng(1)
    count = len(_BATCHES[0])

    def rows(state: State) -> Array:
        initial = np.moveaxis(state.initial_rows(count, PROBE_SIZE), state.batch_axis, 0)
        if state.dtype.kind not in random:
            return initial
        if state.dtype.kind != "f":
            return rng.integers(0, 2, initial.shape).astype(state.dtype)
        positive = np.isin(np.arange(count), _POSITIVE).reshape(-1, *[1] * (initial.ndim - 1))
        numbers = np.where(positive, rng.uniform(0.05, 1, initial.shape), rng.uniform(-0.2, 0.2, initial.shape))
        return numbers.astype(state.dtype)

    return {state.input: rows(state) for state in contract.states}


def _check_initial_states(name: str, contract: Contract, tolerance: float) -> None:
    contexts = contract.probe_contexts(len(_BATCHES[0]))
    together = contract.initial_states(len(_BATCHES[0]), contexts)
    names = [f"the initial state {state.input}" for state in contract.states]
    expected = [np.moveaxis(together[s.input], s.batch_axis, 0) for s in contract.states]
    for rows in _BATCHES[1:]:
        values = contract.initial_states(len(rows), {key: value[list(rows)] for key, value in contexts.items()})
        found = [np.moveaxis(values[s.input], s.batch_axis, 0) for s in contract.states]
        _check_same(name, rows, names, found, expected, tolerance)


def _check_same(
    name: str,
    rows: Sequence[int],
    names: Sequence[str],
    found: Sequence[Array],
    expected: Sequence[Array],
    tolerance: float,
) -> None:
    """Check that these rows have the results that they have among all, [batch first] each."""
    for what, one, all_rows in zip(names, found, expected, strict=True):
        off = _off(one, all_rows[list(rows)])
        if not off <= tolerance:
            where = "alone" if len(rows) == 1 else "in another place of the batch"
            raise DependentRows(
                f"{name}: rows are not independent: {what} of a row changes by {off:.1e} (relative) when it is run {where}"
            )


def _off(found: Array, expected: Array) -> float:
    """The largest difference, also where only one of the two has a number."""
    if found.shape != expected.shape:
        return np.inf
    found, expected = (x.astype(np.float64) for x in (found, expected))
    return max(difference(found, expected), difference(expected, found))
