"""Gives a program a native step: `load(..., executor="native")`, if the step agrees with onnxruntime's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.program import StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.native.cell import NotNative
from decoding.model.native.plan import native_plan
from decoding.model.runtime.native import NativeSession
from decoding.model.runtime.session import SHORT_NAMES, Session
from decoding.model.verify import equivalence

EXECUTORS = ("native", "onnxruntime")
# The largest difference from onnxruntime's scores and states, relative to 1 + the largest magnitude of a row.
TOLERANCE = 1e-5


def check_executor(executor: str | None, providers: Sequence[Any]) -> None:
    """Raise OptionError for an unknown value of `executor`, and for a native step with other providers than the CPU's."""
    if executor is not None and executor not in EXECUTORS:
        raise OptionError(f"executor={executor!r}: expected 'native', 'onnxruntime', or None for onnxruntime")
    if executor == "native" and any((p if isinstance(p, str) else p[0]) != SHORT_NAMES["cpu"] for p in providers):
        raise OptionError("executor='native': the native step runs on the CPU alone; load it without executor=, or with providers='cpu'")  # fmt: skip


def with_native_step(program: StepProgram, exact: StepProgram) -> StepProgram:
    """The program with a native step, which was compared with onnxruntime.

    Args:
        program: what onnxruntime runs: `exact`, or the same with int8 weights.
        exact: the program with the weights of the file.

    Raises:
        ModelError: the native step does not run such graphs, or gives other scores; the message says what is in the way.
    """
    session = native_session(exact.graph, exact.contract, int8=False)
    off = largest_difference(exact.session, session, exact.contract)
    if not off <= TOLERANCE:
        raise ModelError(
            f"{exact.graph.name}: executor='native': its scores or states differ from onnxruntime's by {off:.1e} (relative), more than {TOLERANCE:.0e}; "
            "load it without executor="
        )
    note = f"the native step runs it: within {off:.0e} of onnxruntime's scores and states on random prefixes"
    if program is not exact:
        session = native_session(exact.graph, exact.contract, int8=True)
        moved = equivalence.change(session, exact.session, exact.contract)
        note = f"{note}; its int8 weights move the logits by at most {moved:.1%} of the largest"
    # The native step reads chunks of any length, also where onnxruntime's graph takes a token a run, as that of int8 layers does.
    contract = replace(program.contract, sequence=program.contract.token.layout != "B")
    return replace(program, native=session, contract=contract).with_note(note)


def native_session(graph: Graph, contract: Contract, *, int8: bool) -> NativeSession:
    """A native session over a step graph, not yet compared with onnxruntime.

    Raises:
        ModelError: the native step does not run such graphs.
    """
    try:
        return NativeSession(native_plan(graph, contract), int8=int8)
    except NotNative as reason:
        raise ModelError(
            f"{graph.name}: executor='native': in the way is {reason}; the native step runs embedding or one-hot, LSTM, GRU and RNN layers, "
            "then a linear output. Load it without executor="
        ) from None


def largest_difference(session: Session, native: NativeSession, contract: Contract) -> float:
    """The largest difference of scores and states, stepping both through the prefixes of verification and once from random states."""
    rng, worst = np.random.default_rng(0), 0.0
    names = [contract.logits.name, *(s.output for s in contract.states)]
    for batch, length in equivalence.VERIFICATION_RUNS:
        ids = rng.integers(0, contract.logits.vocab_size, (batch, length))
        pair = (equivalence.stepped_run(runner, contract, ids) for runner in (native, session))
        worst = max(worst, equivalence.difference(*pair))
        states = {s.input: rng.uniform(-1, 1, s.shape(batch)).astype(np.float32) for s in contract.states}
        feeds = {**contract.feeds(ids[:, :1]), **states}
        found, expected = (dict(zip(names, runner.run(feeds, names), strict=True)) for runner in (native, session))
        worst = max(worst, equivalence.difference(*(contract.logits.arrange(r[contract.logits.name]) for r in (found, expected))))  # fmt: skip
        for s in contract.states:
            rows = (np.moveaxis(r[s.output], s.batch_axis, 0).reshape(batch, -1) for r in (found, expected))
            worst = max(worst, equivalence.difference(*rows))
    return worst
