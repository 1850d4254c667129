"""Loops and Scans that turn once for a token, replaced by their bodies."""

from __future__ import annotations

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session


def turned_once(graph: Graph, contract: Contract) -> Graph:
    """The graph of a step without the Loops and Scans that turn once; the same graph where there are none.

    Those stay that turn another number of times, as one run of a step tells.
    """
    read, done = {contract.token.name, *(s.input for s in contract.states)}, set[str]()
    flat = graph
    while loops := [
        n for n in flat.nodes if n.op in ("Loop", "Scan") and n.label not in done and _reads(flat, n, read)
    ]:
        node = loops[0]
        done.add(node.label)
        flat = (_scan if node.op == "Scan" else _loop)(flat, node, contract) or flat
    return flat


def _reads(graph: Graph, node: Node, names: set[str]) -> bool:
    inputs = (name for name in (*node.inputs, *node.captures()) if name)
    return any(not names.isdisjoint(graph.ancestors(name)) for name in inputs)


def _scan(graph: Graph, node: Node, contract: Contract) -> Graph | None:
    """A copy without a Scan: the first slice of each sequence goes in, and each slice that comes out is a sequence of one."""
    sequences, body = node.integer("num_scan_inputs", 0), node.body("body")
    states = len(node.inputs) - sequences
    if graph.opset < 9:  # it has a batch axis of its own there
        return None
    axes = node.attribute("scan_input_axes") or [0] * sequences
    out_axes = node.attribute("scan_output_axes") or [0] * (len(body.output) - states)
    flat, at, label = graph.copy(), graph.place(node), node.label
    zero = flat.add_initializer(f"{label}/first", np.zeros((), np.int64))
    given = list(node.inputs[:states])
    for k, name in enumerate(node.inputs[states:]):
        given.append(flat.add_node("Gather", [name, zero], f"{label}/in{k}", at=at + k, axis=axes[k]))
    _inline(flat, node.label, given, states, out_axes)
    return flat


def _loop(graph: Graph, node: Node, contract: Contract) -> Graph | None:
    """A copy with the first turn of a Loop in its place, if that is its only one."""
    body, label = node.body("body"), node.label
    trip_count, condition = node.input(0), node.input(1)
    flat = graph.copy()
    first = flat.add_initializer(f"{label}/number", np.zeros((), np.int64))
    goes = flat.add_initializer(f"{label}/goes", np.ones((), bool))
    carried = len(node.inputs) - 2
    names = _inline(flat, label, [first, goes, *node.inputs[2:]], carried, [0] * (len(body.output) - 1 - carried), 1)
    try:
        values = _values(flat, contract, [n for n in (trip_count, condition, names[0]) if n])
    except ModelError:
        return None
    turns = values.get(trip_count, np.array(2))
    if turns.size != 1 or turns.item() < 1 or not values.get(condition, np.array(True)).all():
        return None
    return flat if turns.item() == 1 or not values[names[0]].all() else None


def _values(graph: Graph, contract: Contract, names: list[str]) -> dict[str, Array]:
    part = graph.part(names)
    feeds = contract.feeds(np.zeros((2, 1), np.int64)) | {s.input: s.initial_rows(2) for s in contract.states}
    wanted = {port.name for port in part.inputs}
    values = Session(part, threads=1).run({n: v for n, v in feeds.items() if n in wanted}, names)
    return dict(zip(names, values, strict=True))


def _inline(graph: Graph, label: str, given: list[str], carried: int, axes: list[int], skip: int = 0) -> list[str]:
    """Put the body in the node's place and return the names of its outputs.

    Args:
        given: what its inputs read.
        carried: number of values from turn to turn; those that come out after them are sequences along `axes`.
        skip: outputs of the body before them.
    """
    node = next(n for n in graph.nodes if n.label == label)
    outputs = list(node.outputs)
    names = [f"{label}/out{k}" for k in range(len(node.body("body").output))]
    place, count = graph.place(node), len(graph.nodes)
    graph.inline(node, "body", given, names)
    end = place + len(graph.nodes) - count + 1
    for k, name in enumerate(outputs):
        if not name:
            continue
        made = names[skip + k]
        if k < carried:
            graph.add_node("Identity", [made], name, at=end)
        elif graph.opset < 13:
            graph.add_node("Unsqueeze", [made], name, at=end, axes=[axes[k - carried]])
        else:
            axis = graph.add_initializer(f"{name}/axis", np.array([axes[k - carried]]))
            graph.add_node("Unsqueeze", [made, axis], name, at=end)
    return names
