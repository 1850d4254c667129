"""Turns an exported graph into a step program: exposes its states, finds its layouts, verifies stepping."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.initial_states import MovingStart, make_initial_state_graph
from decoding.model.contract.io import AuxiliaryInput, State
from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.exported import ExportedGraph
from decoding.model.graph.graph import Graph
from decoding.model.passes import normalize
from decoding.model.passes.dynamic_shapes import (
    advice_on_baked_shape,
    declares_one_row,
    make_reshapes_dynamic,
    make_spreads_dynamic,
    turn_loops_once,
)
from decoding.model.passes.expose_states import expose_states, exposed_states
from decoding.model.passes.softmax import cut_softmax, with_log
from decoding.model.roles.given import initial_value
from decoding.model.roles.infer import Roles, recurrent_path
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence, layouts
from decoding.model.verify.equivalence import NotSteppable
from decoding.model.verify.free_sizes import check_fixed_vocabulary
from decoding.model.verify.layouts import Layout, StateShape
from decoding.model.verify.lengths import with_lengths
from decoding.model.verify.padding import with_padding
from decoding.model.verify.rows import DependentRows, check_rows, other_pairs, same_scores
from decoding.model.verify.whole_runs import WholeRuns


class WrongPairs(ModelError):
    """The file's own run over several tokens shows that its states are paired otherwise."""


def step_program(exported: ExportedGraph, open_session: OpenSession, verify: bool) -> StepProgram:
    """Make the graph steppable; where that fails, try again with contexts repeated once for each token.

    Raises:
        NotSteppable: there is no state, or stepping gives other scores than the whole sequence.
        ModelError: the graph does not run on small inputs.
    """
    roles = exported.roles
    if not (exported.hidden or exported.exposed):
        raise NotSteppable(
            f"no recurrent state: neither an LSTM, GRU or RNN layer, a Loop or a Scan between {roles.token} and {roles.logits} nor a state input"
        )
    try:
        return _for_many_or_one(exported, open_session, verify)
    except ModelError as error:
        steps = None
        for axis in (1, 0) if exported.graph.rank(roles.token) == 2 else ():
            dynamic = exported.copy()
            steps = make_spreads_dynamic(dynamic.graph, dynamic.roles, exported.token_shape, axis) or steps
            if not steps:
                continue
            try:
                return _for_many_or_one(dynamic, open_session, verify)
            except ModelError:
                pass
        if steps is None or isinstance(error, NotSteppable):
            raise
        raise ModelError(
            f"{exported.graph.name}: it was traced for exactly {steps} steps, over which it spreads a context; export it with a dynamic time axis, "
            f"or for one step. With another number of steps: {error}"
        ) from error


def _for_many_or_one(exported: ExportedGraph, open_session: OpenSession, verify: bool) -> StepProgram:
    """The program for any number of tokens; for single tokens where only that works and the export may be of one.

    A file that declares one token and shows all its states means one: that it also takes several tokens, and how, must be
    verified.

    Raises:
        ModelError: neither works; the message is that of any number of tokens, or of one where the file means one.
    """
    several, one = (partial(_stepped, exported, open_session, verify, one_step=one_step) for one_step in (False, True))
    if exported.means_one_token and not verify:
        return one()
    try:
        return several()
    except WrongPairs:
        raise
    except ModelError:
        if exported.means_one_token:
            return one().with_note(_ONE_BY_ONE)
        if not declares_one_row(exported.token_shape):
            raise
        try:
            return one()
        except ModelError:
            pass
        raise


_ONE_BY_ONE = "tokens are fed one by one, as the file declares: it does not run with several, or gives other scores"


def _stepped(exported: ExportedGraph, open_session: OpenSession, verify: bool, *, one_step: bool) -> StepProgram:
    """Expose the hidden states, make shapes dynamic, find the layouts, verify.

    Raises:
        NotSteppable: rows depend on each other, or stepping gives other scores than the whole sequence.
        ModelError: the graph runs in no layout, or several are right and give other scores.
    """
    graph, roles = exported.graph.copy(), deepcopy(exported.roles)
    states = [*exported.exposed, *expose_states(graph, exported.hidden)]
    _rewrite_for_steps(graph, roles, exported, states, one_step)
    times = layouts.TIMES if not exported.means_one_token else layouts.TIMES[1:] if one_step else layouts.TIMES[:1]
    right: list[StepProgram] = []
    failure = None
    for way in _ways(graph, roles, exported, states, open_session, times):
        try:
            program = _finished(way, exported, roles, open_session, verify)
        except ModelError as error:
            failure = failure or error
        else:
            right.append(program)
    if failure is not None and not right:
        raise failure
    if len(right) > 1:
        raise ModelError(f"{graph.name}: {_choice_of_axes([program.contract for program in right])}")
    return right[0]


def _finished(way: _Way, exported: ExportedGraph, roles: Roles, open_session: OpenSession, verify: bool) -> StepProgram:
    """The program of one layout, with logits for scores, verified where the file can be run over whole sequences.

    Raises:
        NotSteppable: stepping gives other scores than the whole sequence.
    """
    program, kind = way.program, roles.output
    if kind is None and equivalence.gives_probabilities(program.session, program.contract):
        kind, program = "probs", with_log(program, open_session)
    if verify and (program.contract.sequence or exported.hidden):
        program = _verified(program, exported, kind or "logits", open_session)
    if program.contract.sequence and not way.several:
        program = program.with_note(
            "tokens are fed one by one: a run over several gives other scores than as many steps"
        )
    program = replace(program, contract=replace(program.contract, sequence=way.several))
    return with_lengths(program) if verify else program


def _rewrite_for_steps(
    graph: Graph, roles: Roles, exported: ExportedGraph, states: list[StateShape], one_step: bool
) -> None:
    """Rewrite the graph, whose states are exposed, so that it takes any number of tokens, or one where `one_step`."""
    declared = exported.token_shape
    path = recurrent_path(graph, roles.token, roles.logits)
    normalize.drop_lengths(graph, path)
    cut_softmax(graph, roles)
    if one_step:
        turn_loops_once(graph, path, declared)
    baked, rewrite = exported.baked_reshapes, partial(make_reshapes_dynamic, graph, roles, states)
    if one_step and exported.means_one_token and declares_one_row(declared):
        # Of the parts that run over several tokens, only these tell the time from a size of 1.
        baked = rewrite(exported.auxiliary_inputs, declared, only=baked)
    rewrite(exported.auxiliary_inputs, declared, only=baked, one_step=one_step)
    attention = [roles.attention] if roles.attention else []
    with graph.recorded("keep what a step needs"):
        graph.keep_outputs([roles.logits, *(state.output for state in states), *attention])


class _Way(NamedTuple):
    """A layout in which rows are independent. `several`: a run over several tokens gives what as many steps give."""

    program: StepProgram
    several: bool


def _ways(
    graph: Graph,
    roles: Roles,
    exported: ExportedGraph,
    states: list[StateShape],
    open_session: OpenSession,
    times: Sequence[int],
) -> list[_Way]:
    """The layouts in which rows are independent, one of those that give the same scores.

    Args:
        times: numbers of tokens to probe the graph with.

    Raises:
        NotSteppable: a step of it does not read the token, or rows depend on each other in every layout.
        ModelError: it runs in no layout.
    """
    inputs = {p.name for p in graph.inputs}
    if roles.token not in inputs:
        raise NotSteppable(
            f"{graph.name}: a step does not read the token {roles.token}: in the file it tells only how long the sequences are, or how their states start"
        )
    session = open_session(graph)
    auxiliary_inputs = tuple(aux for aux in exported.auxiliary_inputs if aux.name in inputs)
    found: dict[tuple[tuple[int | None, ...], ...], _Way] = {}
    failures: list[ModelError] = []
    for candidate in layouts.candidates(roles.token, graph.rank(roles.token), states, times):
        # Two layouts in which rows are independent, and a row alone has the same shapes, are one.
        known = found.get(alone := candidate.of_one_row(states))
        if known is not None and (known.several or candidate.time == 1):
            continue
        try:
            layout = layouts.try_candidate(session, candidate, roles.logits, states, auxiliary_inputs)
            program = _in_layout(graph, roles, exported, states, session, auxiliary_inputs, layout)
            tolerance = equivalence.tolerance(graph, program.contract.states)
            several = check_rows(session, program.contract, tolerance)
        except MovingStart:  # in any layout
            raise
        except ModelError as error:
            failures.append(error)
            continue
        if exported.means_one_token and layout.sequence and not several:
            if pairs := other_pairs(session, program.contract, tolerance):
                raise WrongPairs(
                    f"{graph.name}: a run over several tokens gives other scores than as many steps, and the same where the states are paired otherwise: "
                    f"pass roles={{'state': {pairs}}}, or verify=False if they are paired rightly"
                )
            failures.append(
                NotSteppable(f"{graph.name}: a run over several tokens gives other scores than as many steps")
            )
            continue
        if known is None or several:
            found[alone] = _Way(program, several)
    if not found:
        raise _no_layout(exported, states, failures)
    ways: list[_Way] = []
    for way in found.values():
        contract = way.program.contract
        if not any(same_scores(session, other.program.contract, contract, tolerance) for other in ways):
            ways.append(way)
    return ways


def _no_layout(exported: ExportedGraph, states: Sequence[StateShape], failures: Sequence[ModelError]) -> ModelError:
    """The error for a graph of which every candidate failed: that of one which ran, where there is one."""
    dependent = [error for error in failures if isinstance(error, DependentRows)]
    if dependent:
        open_states = {state.input: list(state.axes) for state in states if len(state.axes) > 1}
        tried = f". These axes may count rows, and none does: {open_states}" if open_states else ""
        return NotSteppable(
            f"{dependent[0]}, so rows cannot be decoded together, though one alone may be right{tried}. Export the file with a dynamic batch and in "
            f"evaluation mode (model.eval()), or say which axis of each state counts rows: "
            f"roles={{'batch_axis': {{input: axis}}}}{layouts.advice_on_axes(states)}"
        )
    first = str(failures[0])
    advice = layouts.advice_on_axes(states) or advice_on_baked_shape(first)
    if not advice and exported.token_shape and all(isinstance(d, int) for d in exported.token_shape):
        advice = f". The file declares the token {exported.roles.token} as {list(exported.token_shape)}, and takes no other number of rows: export it with a dynamic batch"
    return ModelError(f"{first}{advice}")


def _choice_of_axes(contracts: Sequence[Contract]) -> str:
    """What to say of layouts that are all right and give other scores: the axes of each, as roles."""
    states = list(zip(*(contract.states for contract in contracts), strict=True))
    unlike = [place for place, same in enumerate(states) if len({state.batch_axis for state in same}) > 1]
    choices = [{contract.states[i].input: contract.states[i].batch_axis for i in unlike} for contract in contracts]
    return (
        f"which axis of a state counts rows cannot be told: {len(contracts)} choices keep rows independent and give other scores. Pass one of "
        + " or ".join(f"roles={{'batch_axis': {choice}}}" for choice in choices)
    )


def _in_layout(
    graph: Graph,
    roles: Roles,
    exported: ExportedGraph,
    states: Sequence[StateShape],
    session: Session,
    auxiliary_inputs: tuple[AuxiliaryInput, ...],
    layout: Layout,
) -> StepProgram:
    """The program of a graph in one layout."""
    count = len(exported.exposed)
    own = [_own_state(graph, shape, axis) for shape, axis in zip(states[:count], layout.axes[:count], strict=True)]
    hidden = exposed_states(graph, exported.hidden, states[count:], layout.axes[count:])
    contract = Contract(
        layout.token,
        layout.logits,
        (*own, *hidden),
        auxiliary_inputs,
        layout.sequence,
        attention=roles.attention,
        notes=tuple(roles.notes),
    )
    program = _with_initial_state_graph(StepProgram(graph, session, contract), exported)
    check_fixed_vocabulary(program)
    return with_padding(program)


def _own_state(graph: Graph, shape: StateShape, axis: int) -> State:
    """A state that is an input and an output of the file; its metadata may hold the initial state."""
    empty = shape.free_axis if shape.grows else None
    sizes = tuple(1 if i == axis else 0 if i == empty else int(size or 0) for i, size in enumerate(shape.sizes))
    initial = initial_value(graph, shape.input, sizes, shape.dtype)
    return State(
        shape.input,
        shape.output,
        axis,
        initial,
        "an input and an output of the file",
        exposed=True,
        free_axis=shape.free_axis,
        width_of=shape.width_of,
    )


def _with_initial_state_graph(program: StepProgram, exported: ExportedGraph) -> StepProgram:
    """The program with the part of the original that computes initial states from contexts or latents, if there is one."""
    computed = {state.name: (state.initial, initial.context) for state, initial in exported.hidden if initial.context}
    tensors = {name: tensor for name, (tensor, _) in computed.items()}
    givers = {name: f"values that the graph computes from {context}" for name, (_, context) in computed.items()}
    token = program.contract.token
    part = make_initial_state_graph(exported.graph, exported.auxiliary_inputs, token, tensors)
    return replace(program, contract=replace(program.contract, initial_state_graph=part, givers=givers))


def _verified(program: StepProgram, exported: ExportedGraph, kind: str, open_session: OpenSession) -> StepProgram:
    """The program with a note on how stepping was verified; `kind` is that of the original's scores.

    Raises:
        NotSteppable: stepping gives other scores than the whole sequence.
    """
    contract = program.contract
    original = exported.original.copy()
    original.keep_outputs([exported.roles.logits])
    inputs = {p.name for p in original.inputs}
    known = {aux.name: aux for aux in contract.auxiliary_inputs}
    whole = replace(
        contract,
        logits=replace(contract.logits, name=exported.roles.logits),
        states=tuple(state for state in contract.states if state.input in inputs),
        auxiliary_inputs=tuple(known.get(aux.name, aux) for aux in exported.auxiliary_inputs if aux.name in inputs),
    )
    tolerance = equivalence.tolerance(original, contract.states)
    fixed = contract.token.batch_and_time(exported.token_shape)
    runs_of_whole = WholeRuns(original, whole, open_session, partial(program.session_over, brief=True))
    runs = equivalence.verify_stepping(program.session, contract, runs_of_whole, kind, fixed, tolerance)
    if not runs:
        return program.with_note("not verified: the logits are NaN whatever the tokens are; check the weights")
    sizes = ", ".join(f"{batch}x{length}" for batch, length in runs)
    return program.with_note(
        f"verified: stepping equals the whole-sequence run on random prefixes (batch x length {sizes})"
    )
