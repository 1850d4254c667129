"""Freeing the batch and time sizes that an export baked into the target shapes of Reshape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.errors import ModelError
from decoding.model.graph import Array, Graph, Node
from decoding.model.roles import Roles
from decoding.model.session import Session

# Two sizes for each of the token's axes: a dimension that differs between runs follows the batch or the time.
_SIZES = ((2, 3), (4, 3), (2, 5))


def free_reshapes(graph: Graph, roles: Roles) -> None:
    """Rewrite target shapes such as [5, -1, 6] whose 5 was the example's length, from the first node to the last.

    What each Reshape is given is found by running the part of the graph before it at several sizes. Where that part
    does not run, the shape is left as it is, and the proof will tell.
    """
    for node in graph.nodes:
        target = graph.constant(node.input(1)) if node.op == "Reshape" else None
        if target is None or not _may_be_baked(target):
            continue
        given = _given_shapes(graph, roles, node)
        if given is None:
            continue
        freed = free_target(target.tolist(), given)
        if freed != target.tolist():
            node.set_input(1, graph.add_initializer(f"{node.label}/free_shape", np.array(freed, np.int64)))
            node.drop_attribute("allowzero")
            graph.edited()
            roles.notes.append(f"the shape {target.tolist()} baked into {node.label} became {freed}")


def _may_be_baked(target: Array) -> bool:
    return bool((target[:-1] > 0).any() or (target > 0).all())


def _given_shapes(graph: Graph, roles: Roles, node: Node) -> list[tuple[int, ...]] | None:
    """Shapes of the Reshape's data at each of _SIZES, or None where that cannot be found out."""
    part = graph.part({node.input(0): np.float32})
    if any(p.name != roles.token for p in part.inputs) or not part.inputs:
        return None
    rank = len(part.inputs[0].shape or (None, None))
    try:
        session = Session(part.serialize(), graph.name, threads=1)
        runs = [session.run({roles.token: np.zeros(size[:rank], np.int64)}, [node.input(0)])[0] for size in _SIZES]
    except ModelError:
        return None
    return [run.shape for run in runs]


def free_target(target: Sequence[int], given: Sequence[tuple[int, ...]]) -> list[int]:
    """A target shape that fits every one of the `given` input shapes, where one can be told.

    Dimensions are matched from the right while they are fixed and equal, then from the left: a number opposite a
    dimension that varies becomes 0 (copy it); a single number opposite several becomes -1.

    >>> free_target([5, -1, 6], [(3, 2, 1, 6), (3, 4, 1, 6), (5, 2, 1, 6)])
    [0, -1, 6]
    >>> free_target([10, 8], [(2, 3, 8), (4, 3, 8), (2, 5, 8)])
    [-1, 8]
    """
    varies = [len(set(sizes)) > 1 for sizes in zip(*given, strict=True)]
    out = list(target)
    right_in, right_out = len(varies), len(out)
    while right_in and right_out and not varies[right_in - 1] and out[right_out - 1] == given[0][right_in - 1]:
        right_in, right_out = right_in - 1, right_out - 1
    left = 0
    while left < min(right_in, right_out) and (left < right_out - 1 or right_in == right_out):
        if varies[left] and out[left] > 0:
            out[left] = 0
        left += 1
    if left == right_out - 1 and any(varies[left:right_in]) and out[left] > 0 and -1 not in out:
        out[left] = -1
    return out
