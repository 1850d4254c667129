"""Turns an exported graph that cannot be stepped into a program over windows. Only its final softmax is cut."""

from __future__ import annotations

from copy import deepcopy

from decoding.errors import ModelError
from decoding.model.contract.io import Window
from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.exported import ExportedGraph
from decoding.model.passes.softmax import cut_softmax, with_log
from decoding.model.verify import equivalence
from decoding.model.verify.free_sizes import check_fixed_vocabulary
from decoding.model.verify.lengths import with_lengths
from decoding.model.verify.padding import with_padding
from decoding.model.verify.window import advice_on_steps, check_any_length, exported_steps, window_contract


def window_program(
    exported: ExportedGraph, open_session: OpenSession, window: Window | None, reason: str
) -> StepProgram:
    """The program that runs the end of the prefix, or all of it, at every step.

    Args:
        window: the window that roles ask for; None to try the whole prefix.
        reason: why the graph is not stepped, for its notes and for messages.

    Raises:
        ModelError: the graph cannot be run so either.
    """
    graph, roles = exported.original.copy(), deepcopy(exported.roles)
    cut_softmax(graph, roles)
    with graph.recorded("keep what a window needs"):
        graph.keep_outputs([roles.logits])
    try:
        session = open_session(graph)
        contract = window_contract(session, graph, roles, exported.auxiliary_inputs, window or Window())
        if window is None:
            check_any_length(graph.name, contract, exported.token_shape)
    except ModelError as error:
        if window is None:
            check_steps(exported, open_session)
        why = str(error).removeprefix(f"{graph.name}: ")
        if why.startswith(reason):
            raise ModelError(f"{graph.name}: {why}") from error
        raise ModelError(
            f"{graph.name}: it cannot be stepped: {reason}. Nor can it be run on whole prefixes: {why}"
        ) from error
    program = StepProgram(graph, session, contract.with_notes(f"not stepped: {reason}"))
    check_fixed_vocabulary(program)
    program = with_padding(program)
    if roles.output is None and equivalence.gives_probabilities(session, program.contract):
        program = with_log(program, open_session)
    return with_lengths(program)


def check_steps(exported: ExportedGraph, open_session: OpenSession) -> None:
    """Refuse a graph that runs over exactly as many tokens as it declares, in words that say how to export it.

    Raises:
        ModelError: it is one, or it does not run at all.
    """
    roles, declared = exported.roles, exported.token_shape
    if not any(isinstance(size, int) and size > 1 for size in (declared or ())[:2]):
        return
    graph = exported.original.copy()
    graph.keep_outputs([roles.logits])
    session = open_session(graph)
    steps = exported_steps(session, graph, roles, declared, exported.exposed, exported.auxiliary_inputs)
    if steps:
        raise ModelError(f"{graph.name}: {advice_on_steps(steps)}")
