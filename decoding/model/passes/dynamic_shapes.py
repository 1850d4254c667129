"""Dynamic shapes: an export bakes its example's batch and time into Reshape, Expand and Tile; this undoes it.

A baked Reshape is ambiguous: the 5 in ``Reshape(x, [5, -1, 6])`` may be the example's batch, its length or a size of
the network, and the file does not say which. So `make_reshapes_dynamic` runs the part of the graph before the Reshape
at several sizes, and `dynamic_target` writes one target that fits every shape that arrives. A Reshape stays baked in
two cases:

- the part before it runs at the example's sizes alone (an initial state of exactly 5 rows, say), so no other shape
  can be observed;
- it does more than drop dimensions of 1, merge the first ones, or re-arrange those after the batch alone: several
  targets would fit, and a wrong one mixes rows.

A graph with such a Reshape still loads if it can be stepped. Otherwise it is refused: either `verify/layouts.py`
cannot run it with another number of rows, and `load()` raises a ModelError with onnxruntime's message and
`advice_on_baked_shape`, or `verify/equivalence.py` sees that stepping differs.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import combinations
from math import prod

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, Token, TokenLayout
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import graph_pass
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array, Shape
from decoding.model.roles.infer import Roles, data_ancestors
from decoding.model.runtime.session import Session, constant_values
from decoding.model.verify.layouts import StateShape

# (batch, time), two sizes of each: a dimension that differs between runs follows the batch or the time. The products have no
# common divisor, so that no baked size fits all of them beside a -1.
_SIZES = ((2, 3), (5, 3), (2, 5))
# For single steps: an export of one row and a fixed number of steps may allow no more (Keras's stateful models).
_ONE_STEP = ((2, 1), (3, 1), (4, 1))


@graph_pass("make Reshapes dynamic")
def make_reshapes_dynamic(
    graph: Graph,
    roles: Roles,
    states: Sequence[StateShape],
    auxiliary_inputs: Sequence[AuxiliaryInput],
    declared: Shape,
    *,
    only: Container[str] | None = None,
    one_step: bool = False,
) -> set[str]:
    """Make the target shapes of Reshapes dynamic, from the first node to the last.

    The part of the graph before each Reshape is run at several sizes, to see which shapes it is given. A target that fits
    them all stays, unless the example was one row or one step: then any 1 in it may be baked.

    Args:
        declared: the token's shape in the file, which tells the example's size.
        only: outputs of the Reshapes to look at; default all.
        one_step: make the graph dynamic for single steps alone.

    Returns:
        The outputs of the Reshapes that cannot be judged, as the part before them does not run at other sizes.
    """
    sizes = _ONE_STEP if one_step else _SIZES
    # What the example had one of, any 1 in a target may stand for.
    ones = declares_one_row(declared) if one_step else 1 in tuple(declared or ())[:2]
    unjudged = set()
    for node in graph.nodes:
        target = graph.sizes(node.input(1)) if node.op == "Reshape" else None
        if target is None or not _may_be_baked(target) or (only is not None and node.outputs[0] not in only):
            continue
        runs = values_at(graph, roles, [node.input(0)], states, auxiliary_inputs, sizes)
        if runs is None:
            unjudged.add(node.outputs[0])
            continue
        given = [value.shape for (value,) in runs]
        if not ones and all(_fits(target, shape) for shape in given):
            continue
        dynamic = dynamic_target(target, given)
        if one_step and ones and len(target) == 3:
            # Where batch and time are 1, exporters write any Reshape for a Transpose or for a new axis.
            if _feeds_layer(graph, node):
                dynamic = [1, -1, given[0][-1]]
            elif dynamic == target and dynamic[0] == 1:
                dynamic = [-1, 1, dynamic[2]]
        if dynamic != target:
            node.set_input(1, graph.add_initializer(f"{node.label}/dynamic_shape", np.array(dynamic, np.int64)))
            node.drop_attribute("allowzero")
            graph.edited()
            roles.notes.append(f"the shape {target} baked into {node.label} became {dynamic}")
    return unjudged


def advice_on_baked_shape(message: str) -> str:
    """What to add to onnxruntime's message where it says that a Reshape does not fit; else nothing."""
    if "cannot be reshaped" not in message:
        return ""
    return ". The export baked its example's batch or time into this shape, and no one shape fits every size; export it with a dynamic batch and time"


def declares_one_row(declared: Shape) -> bool:
    """Return whether the token's declared shape is one row, or one step, with fixed sizes."""
    example = tuple(declared or ())[:2]
    return len(example) == 2 and all(isinstance(d, int) for d in example) and 1 in example


@graph_pass("turn Loops once")
def turn_loops_once(graph: Graph, path: Sequence[Node], declared: Shape) -> None:
    """Make Loops turn once for a single step, where the export baked the example's number of steps into them."""
    for node in path:
        turns = graph.constant(node.input(0)) if node.op == "Loop" else None
        if turns is None or turns.size != 1 or turns.dtype.kind != "i":
            continue
        if turns.item() > 1 and turns.item() in (declared or ())[:2]:
            node.set_input(0, graph.add_initializer(f"{node.label}/turns", np.ones_like(turns)))


@graph_pass("repeat contexts for each token")
def make_spreads_dynamic(graph: Graph, roles: Roles, declared: Shape, axis: int) -> int | None:
    """Repeat contexts and latents as often as there are tokens, where the export repeats them for each of the example's steps.

    Such as ``features[:, None].expand(-1, 4, -1)``, an Expand or Tile by 4. For as many steps as the example had, nothing
    changes. Where the token's time is not declared, the only size of the Expand or Tile that is not 1 is the number of steps.

    Args:
        axis: the token's time axis.

    Returns:
        The example's number of steps; None where nothing is repeated.
    """
    size = None if declared is None or axis >= len(declared) else declared[axis]
    time = size if isinstance(size, int) else None
    found = None
    for node in graph.nodes:
        if (
            node.op not in ("Expand", "Tile")
            or not data_ancestors(graph, node.input(0)) & roles.auxiliary_inputs.keys()
        ):
            continue
        value = (constant_values(graph, [node.input(1)]) or [np.zeros(0)])[0]
        target = value.ravel().tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "i" else []
        places = [i for i, size in enumerate(target) if size > 1 and size == (time or size)]
        if len(places) != 1:
            continue
        name, (place,) = f"{node.label}/steps", places
        steps, one = graph.add_initializer(f"{name}/axis", np.array([axis])), np.ones(1, np.int64)
        at = graph.place(node)
        graph.add_node("Shape", [roles.token], f"{name}/shape", at=at)
        graph.add_node("Gather", [f"{name}/shape", steps], f"{name}/count", at=at + 1)
        pieces = [graph.add_initializer(f"{name}/size{i}", one * size) for i, size in enumerate(target)]
        pieces[place] = f"{name}/count"
        graph.add_node("Concat", pieces, f"{name}/sizes", at=at + 2, axis=0)
        node.set_input(1, f"{name}/sizes")
        graph.edited()
        found = target[place]
        roles.notes.append(f"{node.label} spreads over as many steps as there are tokens, not {found}")
    return found


def _may_be_baked(target: Sequence[int]) -> bool:
    return len(target) > 0 and (any(size > 0 for size in target[:-1]) or all(size > 0 for size in target))


def _fits(target: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a tensor of this shape can be reshaped to the target."""
    sizes = [shape[i] if entry == 0 and i < len(shape) else entry for i, entry in enumerate(target)]
    known = prod(size for size in sizes if size != -1)
    return prod(shape) == known or (-1 in sizes and known > 0 and prod(shape) % known == 0)


def _feeds_layer(graph: Graph, node: Node) -> bool:
    """Return whether a recurrent layer or a Loop reads the Reshape's result as its sequence."""
    name = node.outputs[0]
    return any(
        name == user.input(0) if user.op in STATE_SLOTS else name in user.captures() for user in graph.consumers(name)
    )


def values_at(
    graph: Graph,
    roles: Roles,
    tensors: Sequence[str],
    states: Sequence[StateShape],
    auxiliary_inputs: Sequence[AuxiliaryInput],
    sizes: Sequence[tuple[int, int]],
) -> list[list[Array]] | None:
    """These tensors in a run for each (batch, time) of `sizes`, all ids 0; None where the part before them does not run so."""
    part = graph.part(tensors)
    inputs = {p.name: p for p in part.inputs}
    if roles.token not in inputs and not any(state.input in inputs for state in states):
        return None
    rank = len(inputs[roles.token].shape or (None, None)) if roles.token in inputs else 2
    session = Session(part, threads=1)
    layouts: tuple[TokenLayout, ...] = ("B",) if rank == 1 else ("BT", "TB")
    for layout in layouts:
        token = Token(roles.token, layout)
        runs = []
        for batch, time in sizes:
            feeds = {f.name: f.value(token, batch, time) for f in auxiliary_inputs}
            feeds |= {s.input: np.zeros(s.sized(s.axes[0], batch), s.dtype) for s in states}
            feeds[roles.token] = token.arrange(np.zeros((batch, 1 if rank == 1 else time), np.int64))
            try:
                runs.append(session.run({name: feeds[name] for name in inputs}, tensors))
            except (ModelError, KeyError):
                break
        else:
            return runs
    return None


def dynamic_target(target: Sequence[int], given: Sequence[tuple[int, ...]]) -> list[int]:
    """One target that fits each of the `given` input shapes; `target` itself where there is no such target.

    An entry that follows the batch or the time becomes 0 (copy the input's size) or -1 (the rest).

    >>> dynamic_target([5, -1, 6], [(3, 2, 1, 6), (3, 4, 1, 6), (5, 2, 1, 6)])
    [0, 0, 6]
    >>> dynamic_target([10, 8], [(2, 3, 8), (4, 3, 8), (2, 5, 8)])
    [-1, 8]

    Splitting or merging later dimensions could be done in several ways: the target stays.

    >>> dynamic_target([2, 3, 4], [(2, 3, 2, 2), (4, 3, 2, 2), (2, 5, 2, 2)])
    [2, 3, 4]

    Except after a batch that alone varies: rows keep their places however the rest is split or merged.

    >>> dynamic_target([1, 4, 5], [(2, 20), (3, 20), (4, 20)])
    [0, 4, 5]
    """
    sizes = [shapes[0] if len(set(shapes)) == 1 else None for shapes in zip(*given, strict=True)]
    groups = _squeezed(target, sizes) or _merged(target, sizes)
    if groups is None:
        return _rest_rearranged(target, sizes) or list(target)
    dynamic = [
        _entry(entry, group, place, sizes) for place, (entry, group) in enumerate(zip(target, groups, strict=True))
    ]
    return dynamic if dynamic.count(-1) <= 1 else list(target)


def _entry(entry: int, group: Sequence[int], place: int, sizes: Sequence[int | None]) -> int:
    """The target's entry for one output dimension, which is made of the input dimensions `group`."""
    if all(sizes[i] is not None for i in group):
        return entry
    return 0 if list(group) == [place] else -1


def _squeezed(target: Sequence[int], sizes: Sequence[int | None]) -> list[list[int]] | None:
    """The input dimension of each output dimension, where the Reshape only drops dimensions of 1; None where it does more."""
    ones = [i for i, size in enumerate(sizes) if size == 1]
    for left_out in combinations(ones, len(sizes) - len(target)) if len(sizes) >= len(target) else ():
        kept = [i for i in range(len(sizes)) if i not in left_out]
        if all(sizes[i] is None or entry in (-1, 0, sizes[i]) for entry, i in zip(target, kept, strict=True)):
            return [[i] for i in kept]
    return None


def _rest_rearranged(target: Sequence[int], sizes: Sequence[int | None]) -> list[int] | None:
    """The target where only the first dimension varies, and the Reshape leaves it as it is; None where it does more."""
    rest = [size for size in sizes[1:] if size is not None]
    if sizes[:1] != [None] or len(rest) < len(sizes) - 1 or min(target) < 1 or prod(rest) != prod(target[1:]):
        return None
    return [0, *target[1:]]


def _merged(target: Sequence[int], sizes: Sequence[int | None]) -> list[list[int]] | None:
    """The input dimensions of each output dimension, where the Reshape merges the first ones into one; None where it does not."""
    tail = len(target) - 1
    kept = range(len(sizes) - tail, len(sizes))
    if tail >= len(sizes) or any(
        sizes[i] is not None and entry not in (-1, 0, sizes[i]) for entry, i in zip(target[1:], kept, strict=True)
    ):
        return None
    return [list(range(len(sizes) - tail)), *([i] for i in kept)]
