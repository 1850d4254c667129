"""Logits in place of probabilities: the final Softmax is cut, or a logarithm is put after it."""

from __future__ import annotations

from dataclasses import replace

from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import VIEW_OPS
from decoding.model.roles.infer import Roles


def cut_softmax(graph: Graph, roles: Roles) -> None:
    """Cut the final Softmax or LogSoftmax, so that the kernels see logits; `roles` then says what the output was."""
    name = roles.logits
    while (node := graph.producer(name)) is not None and node.op in VIEW_OPS:
        name = node.input(0)
    if node is not None and node.op in ("Softmax", "LogSoftmax"):
        roles.output = "probs" if node.op == "Softmax" else "logprobs"
        roles.notes.append(f"the final {node.op} was cut: the kernels normalise")
        node.become_identity()
    elif roles.output == "probs":
        roles.logits = _log(graph, roles.logits)
        roles.notes.append("the output gives probabilities: their logarithm is taken for the logits")


def with_log(program: StepProgram, open_session: OpenSession) -> StepProgram:
    """A program whose output gives probabilities without a Softmax to cut, with their logarithm for logits."""
    graph, logits = program.graph.copy(), program.contract.logits
    contract = replace(program.contract, logits=replace(logits, name=_log(graph, logits.name)))
    note = f"the output {logits.name} gives probabilities (they sum to 1): their logarithm is taken for the logits"
    return StepProgram(graph, open_session(graph), contract.with_notes(note))


def _log(graph: Graph, name: str) -> str:
    """Put a logarithm after the output `name`."""
    log = graph.add_node("Log", [name], f"{name}/log")
    graph.redirect_output(name, log)
    return log
