"""Logits in place of probabilities: the final Softmax is cut, or a logarithm is put after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import graph_pass
from decoding.model.graph.node import Node
from decoding.model.graph.types import VIEW_OPS
from decoding.model.roles.infer import Roles


@graph_pass("cut the softmax")
def cut_softmax(graph: Graph, roles: Roles) -> None:
    """Cut the final softmax or its logarithm, so that the kernels see logits; `roles` then says what the output was."""
    name = roles.logits
    while (node := graph.producer(name)) is not None and node.op in VIEW_OPS:
        name = node.input(0)
    rank = max((len(port.shape or ()) for port in graph.outputs if port.name == roles.logits), default=0)
    found = None if node is None else _softmax(graph, node, rank)
    if node is not None and found is not None:
        logits, roles.output, written = found
        roles.notes.append(f"the final {written} was cut: the kernels normalise")
        node.set_input(0, logits)
        node.become_identity()
        graph.edited()
    elif roles.output == "probs":
        roles.logits = _log(graph, roles.logits)
        roles.notes.append("the output gives probabilities: their logarithm is taken for the logits")


def _softmax(graph: Graph, node: Node, rank: int) -> tuple[str, Literal["probs", "logprobs"], str] | None:
    """The logits of a softmax or of its logarithm, which of the two it is, and how it is written; None for another operator.

    Besides ONNX's operators: the logarithm of a softmax, ``x - logsumexp(x)`` and ``exp(x) / sum(exp(x))``, where each x may be
    less its maximum.
    """
    if node.op in ("Softmax", "LogSoftmax"):
        return node.input(0), "probs" if node.op == "Softmax" else "logprobs", node.op
    maker, other = (graph.producer(node.input(i)) for i in (0, 1))
    if node.op == "Log" and maker is not None and (inner := _softmax(graph, maker, rank)) and inner[1] == "probs":
        return inner[0], "logprobs", f"Log of {inner[2]}"
    if node.op == "Sub" and other is not None and _is_log_sum(graph, other, node.input(0), rank):
        return _less_maximum(graph, node.input(0), rank), "logprobs", f"Sub of {other.op}"
    if node.op != "Div" or maker is None or maker.op != "Exp" or other is None:
        return None
    if _reduces(graph, other, "ReduceSum", node.input(0), rank):
        return _less_maximum(graph, maker.input(0), rank), "probs", "Div of Exp"
    return None


def _is_log_sum(graph: Graph, node: Node, x: str, rank: int) -> bool:
    """Whether a node gives ``log(sum(exp(x)))``."""
    if _reduces(graph, node, "ReduceLogSumExp", x, rank):
        return True
    total = graph.producer(node.input(0)) if node.op == "Log" else None
    exp = graph.producer(total.input(0)) if total is not None else None
    if total is None or exp is None or exp.op != "Exp" or exp.input(0) != x:
        return False
    return _reduces(graph, total, "ReduceSum", total.input(0), rank)


def _less_maximum(graph: Graph, name: str, rank: int) -> str:
    """The x of ``x - max(x)``; the tensor itself where it is something else."""
    node = graph.producer(name)
    most = graph.producer(node.input(1)) if node is not None and node.op == "Sub" else None
    if node is None or most is None or not _reduces(graph, most, "ReduceMax", node.input(0), rank):
        return name
    return node.input(0)


def _reduces(graph: Graph, node: Node, op: str, x: str, rank: int) -> bool:
    """Whether a node reduces x over the last of `rank` axes, and keeps the axis."""
    if node.op != op or node.input(0) != x or not node.attribute("keepdims", 1):
        return False
    axes = graph.sizes(node.input(1)) if node.input(1) else node.attribute("axes")
    return list(axes or ()) in ([-1], [rank - 1])


def with_log(program: StepProgram, open_session: OpenSession) -> StepProgram:
    """A program whose output gives probabilities without a Softmax to cut, with their logarithm for logits."""
    graph, logits = program.graph.copy(), program.contract.logits
    with graph.recorded("take the logarithm"):
        contract = replace(program.contract, logits=replace(logits, name=_log(graph, logits.name)))
    note = f"the output {logits.name} gives probabilities (they sum to 1): their logarithm is taken for the logits"
    return StepProgram(graph, open_session(graph), contract.with_notes(note))


def _log(graph: Graph, name: str) -> str:
    """Put a logarithm after the output `name`."""
    log = graph.add_node("Log", [name], f"{name}/log")
    graph.redirect_output(name, log)
    return log
