"""Turns an exported graph into a step program: exposes its states, finds its layouts, verifies stepping."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.initial_states import make_initial_state_graph
from decoding.model.contract.io import State
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
from decoding.model.verify import equivalence, layouts
from decoding.model.verify.equivalence import NotSteppable
from decoding.model.verify.free_sizes import check_fixed_vocabulary
from decoding.model.verify.layouts import StateShape
from decoding.model.verify.lengths import with_lengths
from decoding.model.verify.padding import with_padding
from decoding.model.verify.whole_runs import WholeRuns


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
    """The program for any number of tokens; for single tokens where only that works and the export is of one row.

    Raises:
        ModelError: neither works; the message is that of any number of tokens.
    """
    try:
        return _stepped(exported, open_session, verify, one_step=False)
    except ModelError:
        if not declares_one_row(exported.token_shape):
            raise
        try:
            return _stepped(exported, open_session, verify, one_step=True)
        except ModelError:
            pass
        raise


def _stepped(exported: ExportedGraph, open_session: OpenSession, verify: bool, *, one_step: bool) -> StepProgram:
    """Expose the hidden states, make shapes dynamic, find the layouts, verify.

    Raises:
        NotSteppable: stepping gives other scores than the whole sequence.
    """
    graph, roles = exported.graph.copy(), deepcopy(exported.roles)
    states = [*exported.exposed, *expose_states(graph, exported.hidden)]
    _rewrite_for_steps(graph, roles, exported, states, one_step)
    program = _probed(graph, roles, exported, states, open_session)
    program = _with_initial_state_graph(program, exported)
    check_fixed_vocabulary(program)
    program = with_padding(program)
    kind = roles.output
    if kind is None and equivalence.gives_probabilities(program.session, program.contract):
        kind, program = "probs", with_log(program, open_session)
    if verify and (program.contract.sequence or exported.hidden):
        program = _verified(program, exported, kind or "logits", open_session)
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
    baked = exported.baked_reshapes
    make_reshapes_dynamic(graph, roles, states, exported.auxiliary_inputs, declared, only=baked, one_step=one_step)
    attention = [roles.attention] if roles.attention else []
    graph.keep_outputs([roles.logits, *(state.output for state in states), *attention])


def _probed(
    graph: Graph, roles: Roles, exported: ExportedGraph, states: list[StateShape], open_session: OpenSession
) -> StepProgram:
    """Open a session over the step graph and find the layouts of its inputs and outputs.

    Raises:
        NotSteppable: a step of it does not read the token.
        ModelError: it runs in no layout.
    """
    inputs = {p.name for p in graph.inputs}
    if roles.token not in inputs:
        raise NotSteppable(
            f"{graph.name}: a step does not read the token {roles.token}: in the file it tells only how long the sequences are, or how their states start"
        )
    session = open_session(graph)
    auxiliary_inputs = tuple(aux for aux in exported.auxiliary_inputs if aux.name in inputs)
    try:
        layout = layouts.probe(session, roles.token, graph.rank(roles.token), roles.logits, states, auxiliary_inputs)
    except ModelError as error:
        raise ModelError(f"{error}{advice_on_baked_shape(str(error))}") from error
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
    return StepProgram(graph, session, contract)


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
    original = exported.graph.copy()
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
