"""Which axis is which: the layouts of token, logits and states that a graph runs in, found on small inputs.

A graph may run in a layout that is not its own: a state [1, 32, 2] whose last axis counts layers may take rows there, too.
So all layouts that the shapes allow are candidates, and `verify/rows.py` looks at those that run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, product
from math import prod
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import PROBE_SIZE, AuxiliaryInput, Logits, LogitsLayout, Token, TokenLayout
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session

# Distinct, so that an output's dimensions say which of them it follows; the batch differs from usual layer counts.
_BATCH, _TIME = 5, 3
# Numbers of tokens to run a graph with: several, or where that fails one.
TIMES = (_TIME, 1)
# Combinations of batch axes that are all tried. Each layer of fixed-shape LSTM states has nine times as many: with more
# than these, only the likely ones are tried, whose number grows with that of the states (issue 13).
_EVERY_COMBINATION = 27


@dataclass(frozen=True)
class StateShape:
    """What is known of a state before probing: its sizes (None where dynamic) and the axes that may count rows.

    Attributes:
        free_axis, width_of: as in `State`; `sizes` then has a size to probe with.
    """

    input: str
    output: str
    sizes: tuple[int | None, ...]
    axes: tuple[int, ...]
    dtype: np.dtype[Any]
    free_axis: int | None = None
    width_of: str = ""

    @property
    def grows(self) -> bool:
        """Whether the state gets longer with every token."""
        return self.free_axis is not None and not self.width_of

    def after(self, shape: Sequence[int], time: int) -> tuple[int, ...]:
        """The shape after `time` tokens of a state that had this one."""
        return tuple(size + time * (self.grows and axis == self.free_axis) for axis, size in enumerate(shape))

    def sized(self, axis: int, batch: int) -> list[int]:
        """The shape for `batch` rows on `axis`; 0 where a size is not known."""
        return [batch if i == axis else size or 0 for i, size in enumerate(self.sizes)]


def declared_state_shape(graph: Graph, roles: Roles, name: str, output: str) -> StateShape:
    """What the declared shapes say of the state that the file takes as `name` and returns as `output`.

    Raises:
        ModelError: the input declares no shape.
    """
    ports = {p.name: p for p in graph.inputs}
    token_dims = {d for d in ports[roles.token].shape or () if isinstance(d, str)}
    shape = ports[name].shape
    if not shape:
        raise ModelError(
            f"{graph.name}: the state input {name} declares no shape; export it with its shape, batch dynamic"
        )
    if name in roles.batch_axis:
        axes: tuple[int, ...] = (roles.batch_axis[name],)
    elif named := [i for i, d in enumerate(shape) if d in token_dims]:
        axes = tuple(named)
    else:
        dynamic = tuple(i for i, d in enumerate(shape) if not isinstance(d, int))
        # All fixed: a recurrent layer has the batch second, a plain cell first, and most examples have one row.
        order = (1, 0, 2) if len(shape) == 3 else range(len(shape))
        usual = tuple(sorted(order, key=lambda axis: shape[axis] != 1))
        tokens = (ports[roles.token].shape or (None,))[:2]
        as_many = tuple(i for i in usual if shape[i] in tokens) if all(isinstance(d, int) for d in tokens) else ()
        axes = dynamic or as_many or usual
    return StateShape(name, output, tuple(d if isinstance(d, int) else None for d in shape), axes, ports[name].dtype)


@dataclass(frozen=True)
class Candidate:
    """A way to run a graph.

    Attributes:
        axes: for each state the axis that counts rows.
        time: number of tokens to run it with.
    """

    token: Token
    axes: tuple[int, ...]
    time: int

    def of_one_row(self, states: Sequence[StateShape]) -> tuple[tuple[int | None, ...], ...]:
        """The shapes of the states of one row."""
        return tuple(
            tuple(1 if i == axis else size for i, size in enumerate(state.sizes))
            for state, axis in zip(states, self.axes, strict=True)
        )


@dataclass(frozen=True)
class Layout:
    """What probing found.

    Attributes:
        axes: for each state the axis that counts rows.
        sequence: the graph takes several tokens in one run.
    """

    token: Token
    logits: Logits
    axes: tuple[int, ...]
    sequence: bool


def candidates(
    token: str, rank: int, states: Sequence[StateShape], times: Sequence[int] = TIMES
) -> Iterator[Candidate]:
    """The ways to run a graph that its shapes allow, the most usual first.

    Args:
        token: the token's input; `rank`: its number of dimensions, 0 where the file does not say.
        times: numbers of tokens to run it with.
    """
    layouts: tuple[TokenLayout, ...] = ("B",) if rank == 1 else ("BT", "TB") if rank == 2 else ("BT", "TB", "B")
    for time, layout, axes in product(times, layouts, _combinations(states)):
        if layout != "B" or time == 1:
            yield Candidate(Token(token, layout), axes, time)


def probe(
    session: Session,
    token: str,
    rank: int,
    logits: str,
    states: Sequence[StateShape],
    auxiliary_inputs: Sequence[AuxiliaryInput],
    times: Sequence[int] = TIMES,
) -> Layout:
    """The first layout that a graph runs in.

    Args:
        token, rank, states, times: as `candidates` takes them.
        logits: the output with the scores.

    Raises:
        ModelError: it runs in none; the message is that of the most usual one.
    """
    failures = []
    for candidate in candidates(token, rank, states, times):
        try:
            return try_candidate(session, candidate, logits, states, auxiliary_inputs)
        except ModelError as error:
            failures.append(str(error))
    raise ModelError(failures[0] + advice_on_axes(states))


def _combinations(states: Sequence[StateShape]) -> Iterator[tuple[int, ...]]:
    """Batch axes to try, one a state: every combination where there are few, else the likely ones, the most usual first.

    The likely ones: every state on its first axis; all states of one shape on another one; one state on another one.
    """
    if _count_combinations(states) <= _EVERY_COMBINATION:
        yield from product(*(s.axes for s in states))
        return
    usual = tuple(s.axes[0] for s in states)
    seen = {usual}
    yield usual
    alike = [[i for i, s in enumerate(states) if (s.sizes, s.axes) == kind] for kind in dict.fromkeys((s.sizes, s.axes) for s in states)]  # fmt: skip
    alone = [[i] for i in range(len(states))]
    for places in (list(range(len(states))), *alike, *alone):
        for choice in range(1, max(len(states[i].axes) for i in places)):
            axes = list(usual)
            for i in places:
                axes[i] = states[i].axes[min(choice, len(states[i].axes) - 1)]
            if tuple(axes) not in seen:
                seen.add(tuple(axes))
                yield tuple(axes)


def _count_combinations(states: Sequence[StateShape]) -> int:
    return prod(len(s.axes) for s in states)


def advice_on_axes(states: Sequence[StateShape]) -> str:
    """What to add to a failure where not every combination of batch axes was tried; else nothing."""
    if _count_combinations(states) <= _EVERY_COMBINATION:
        return ""
    open_states = [s.input for s in states if len(s.axes) > 1]
    return (
        f" ({len(open_states)} states have more than one axis that may count rows: only the likely of {_count_combinations(states)} combinations were tried; "
        f"say which with roles={{'batch_axis': {{{open_states[0]!r}: axis, ...}}}}, or export the states with a dynamic batch)"
    )


def try_candidate(
    session: Session,
    candidate: Candidate,
    logits: str,
    states: Sequence[StateShape],
    auxiliary_inputs: Sequence[AuxiliaryInput],
) -> Layout:
    """Run a graph on small inputs, and see that the shapes of its outputs fit.

    Raises:
        ModelError: it does not run, or they do not fit.
    """
    token, time = candidate.token, candidate.time
    sizes = {size for state in states for size in state.sizes} | {
        size for aux in auxiliary_inputs for size in aux.sizes
    }
    batch = next(rows for rows in count(_BATCH, 2) if rows not in sizes)  # or another axis would take as many
    past = PROBE_SIZE if any(state.grows for state in states) else 0
    feeds = {f.name: f.value(token, batch, time, past) for f in auxiliary_inputs}
    feeds[token.name] = token.arrange(np.zeros((batch, time), np.int64))
    for state, axis in zip(states, candidate.axes, strict=True):
        shape = state.sized(axis, batch)
        if 0 in shape:
            raise ModelError(f"{session.name}: the state {state.input} has more than one dynamic dimension; pass roles={{'batch_axis': {{{state.input!r}: axis}}}} "
                             "and export it with its other dimensions fixed")  # fmt: skip
        feeds[state.input] = np.zeros(shape, state.dtype)
    scores, *after = session.run(feeds, [logits, *(s.output for s in states)])
    for state, value in zip(states, after, strict=True):
        if state.grows and value.shape == feeds[state.input].shape:
            raise ModelError(
                f"{session.name}: the state {state.input} of no fixed size stays as long as it is; if it is as long as a source, export both with one name for that dimension"
            )
        if value.shape != state.after(feeds[state.input].shape, time):
            raise ModelError(f"{session.name}: the state {state.input} goes in as {list(feeds[state.input].shape)} and comes out of {state.output} "
                             f"as {list(value.shape)}: they are not one state; pass roles={{'state': {{input: output}}}}")  # fmt: skip
    return Layout(token, _logits(session, logits, scores, batch, time), candidate.axes, time > 1)


def _logits(session: Session, name: str, scores: Array, batch: int, time: int) -> Logits:
    # Where batch and time are equal the later key wins: [batch, time].
    layouts: dict[tuple[int, ...], LogitsLayout] = {(time, batch): "TBV", (batch, time): "BTV", (batch,): "BV"}
    if scores.shape[:-1] in layouts:
        return Logits(name, layouts[scores.shape[:-1]], scores.shape[-1])
    if scores.ndim == 3 and scores.shape[::2] == (batch, time):  # as torch's NLLLoss takes them
        return Logits(name, "BVT", scores.shape[1])
    raise ModelError(f"{session.name}: for {batch} rows of {time} tokens the output {name} has shape {list(scores.shape)}; expected logits [{batch}, vocabulary], "
                     f"[{batch}, {time}, vocabulary], [{time}, {batch}, vocabulary] or [{batch}, vocabulary, {time}]")  # fmt: skip
