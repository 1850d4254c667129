"""Gives a program a native step, if the step agrees with onnxruntime's: the rule of `load(..., executor=None)`, and the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import State
from decoding.model.contract.program import StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.native.plan import native_plan
from decoding.model.native.vectors import NotNative
from decoding.model.runtime.native import NativePlan, NativeSession
from decoding.model.runtime.session import SHORT_NAMES, Session
from decoding.model.verify import equivalence

EXECUTORS = ("native", "onnxruntime")
# The largest difference from onnxruntime's scores and states after one step from the same states, relative to 1 + the largest
# magnitude of a row. Over whole prefixes, where differences grow, it is that of verification.
TOLERANCE = 1e-5
# Steps of each prefix that are compared one by one: more cost more time than they tell, as each starts from the same states.
_WALKED = 4
# Bytes of weights that a step multiplies, up to which the native step runs a model that may have all of onnxruntime's threads:
# a worker has one thread for them, and a single batch of a larger network gains more from several (docs/benchmarks/native.md).
LARGEST = 40 << 20
# Logits of a token, up to which a graph is followed by itself: labels of 256,000 of them take 400 MB while it is loaded.
LARGEST_VOCABULARY = 1 << 17


def check_executor(executor: str | None, providers: Sequence[Any]) -> None:
    """Raise OptionError for an unknown value of `executor`, and for a native step with other providers than the CPU's."""
    if executor is not None and executor not in EXECUTORS:
        raise OptionError(f"executor={executor!r}: expected 'native', 'onnxruntime', or None to choose by the network's size")  # fmt: skip
    if executor == "native" and not _on_cpu(providers):
        raise OptionError("executor='native': the native step runs on the CPU alone; load it without executor=, or with providers='cpu'")  # fmt: skip


def with_executor(
    program: StepProgram, exact: StepProgram, executor: str | None, providers: Sequence[Any], threads: int | None
) -> StepProgram:
    """The program with a native step, if `executor` asks for one or the rule of sizes chooses it.

    The rule depends on the file and the arguments of `load()` alone: a model never changes its executor.

    Args:
        program: what onnxruntime runs: `exact`, or the same with int8 weights.
        exact: the program with the weights of the file.
        threads: of onnxruntime, as the caller gave them.

    Raises:
        ModelError: `executor` is "native" and the graph is none that the native step runs; the message says what is in the way.
    """
    if executor == "onnxruntime" or program.contract.window is not None or not _on_cpu(providers):
        if executor == "native":
            native_session(exact.graph, exact.contract, int8=False)  # says why not
        return program
    vocabulary = exact.contract.logits.vocab_size
    if executor is None and vocabulary > LARGEST_VOCABULARY:
        return program.with_note(
            f"onnxruntime runs it: loading {vocabulary:,} logits for the native step takes much memory; executor='native' does it all the same"
        )
    try:
        plan = native_plan(exact.graph, exact.contract)
        if executor is None and (reason := _slower(plan, program is not exact, threads)):
            return program.with_note(f"onnxruntime runs it: {reason}")
        return _judged(program, exact, plan)
    except NotNative as reason:
        if executor == "native":
            raise _refused(exact.graph, reason) from None
        return program.with_note(f"onnxruntime runs it: in the way of the native step is {reason}")


def native_session(graph: Graph, contract: Contract, *, int8: bool) -> NativeSession:
    """A native session over a step graph, not yet compared with onnxruntime.

    Raises:
        ModelError: the native step does not run such graphs.
    """
    try:
        return NativeSession(native_plan(graph, contract), int8=int8)
    except NotNative as reason:
        raise _refused(graph, reason) from None


def _refused(graph: Graph, reason: NotNative) -> ModelError:
    return ModelError(
        f"{graph.name}: executor='native': in the way is {reason}; the native step runs embedding or one-hot, LSTM, GRU, RNN and dense layers, "
        "then a linear output. Load it without executor="
    )


def _on_cpu(providers: Sequence[Any]) -> bool:
    return all((p if isinstance(p, str) else p[0]) == SHORT_NAMES["cpu"] for p in providers)


def _slower(plan: NativePlan, int8: bool, threads: int | None) -> str | None:
    """Why onnxruntime may be faster for a network of this size, or what else asks for it; None where the native step is."""
    if threads is not None and threads > 1:
        return f"threads={threads} are onnxruntime's"
    size = plan.arrays.multiplied * (1 if int8 else 4)
    if threads is None and size > LARGEST:
        return f"a step multiplies {size >> 20} MiB of weights, for which the native step has one thread; executor='native' takes it all the same"
    return None


# -- the judge ----------------------------------------------------------------------------------------------


def _judged(program: StepProgram, exact: StepProgram, plan: NativePlan) -> StepProgram:
    """The program with a native step that agrees with onnxruntime.

    Raises:
        NotNative: it does not agree.
    """
    session = NativeSession(plan)
    off, drift = differences(exact.session, session, exact.contract)
    allowed = equivalence.tolerance(exact.graph, exact.contract.states)
    if not (off <= TOLERANCE and drift <= allowed):
        raise NotNative(
            f"a difference from onnxruntime's scores and states: {off:.1e} (relative) after a step, more than {TOLERANCE:.0e}, "
            f"or {drift:.1e} over random prefixes, more than {allowed:.0e}"
        )
    note = f"the native step runs it: within {off:.0e} of onnxruntime's scores and states on random states and prefixes"
    if program is not exact:
        session = NativeSession(plan, int8=True)
        moved = equivalence.change(session, exact.session, exact.contract)
        note = f"{note}; its int8 weights move the logits by at most {moved:.1%} of the largest"
    # From here on only Model.run() needs onnxruntime: its copy of the weights is freed.
    later = program.session_over(program.graph, later=True)
    return replace(program, native=session, session=later).with_note(note)


def differences(session: Session, native: NativeSession, contract: Contract) -> tuple[float, float]:
    """The largest difference of scores and states after one step from the same states, and of states after whole prefixes.

    The steps start from random states, and from those of onnxruntime at the beginning of verification's prefixes.
    """
    rng, step, drift = np.random.default_rng(0), 0.0, 0.0
    for batch, length in equivalence.VERIFICATION_RUNS:
        ids = rng.integers(0, contract.logits.vocab_size, (batch, length))
        states = {s.input: rng.uniform(-1, 1, s.shape(batch)).astype(np.float32) for s in contract.states}
        step = max(step, _step_difference(session, native, contract, contract.feeds(ids[:, :1]) | states)[0])
        states = first = contract.initial_states(batch, contract.probe_contexts(batch))
        for t in range(min(length, _WALKED)):
            off, states = _step_difference(session, native, contract, contract.feeds(ids[:, t : t + 1], t) | states)
            step = max(step, off)
        if contract.sequence:
            outputs = [s.output for s in contract.states]
            found, expected = (
                r.run(contract.feeds(ids) | first, outputs, only_fetched=True) for r in (native, session)
            )
            drift = max(drift, *map(_state_difference, contract.states, found, expected))
    return step, drift


def _step_difference(
    session: Session, native: NativeSession, contract: Contract, feeds: dict[str, Array]
) -> tuple[float, dict[str, Array]]:
    """The largest difference after one step, and onnxruntime's states."""
    logits, states = contract.logits, contract.states
    names = [logits.name, *(s.output for s in states)]
    found, expected = (runner.run(feeds, names) for runner in (native, session))
    off = equivalence.difference(logits.arrange(found[0]), logits.arrange(expected[0]))
    after = {s.input: value for s, value in zip(states, expected[1:], strict=True)}
    pairs = zip(states, found[1:], after.values(), strict=True)
    return max(off, *(_state_difference(*pair) for pair in pairs)), after


def _state_difference(state: State, found: Array, expected: Array) -> float:
    rows = (np.moveaxis(array, state.batch_axis, 0) for array in (found, expected))
    return equivalence.difference(*(row.reshape(len(row), -1) for row in rows))
