"""Window mode: the contract of a graph that cannot be stepped, and the checks that it reads the whole window and computes each row independently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput, Token, TokenLayout, Window
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array, Shape
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence, layouts
from decoding.model.verify.layouts import StateShape

_LENGTHS = (1, 2, 7)


def given_window(given: Mapping[str, Any], pad_id: int | None) -> Window | None:
    """The window that roles ask for, or None. In ``roles["window"]`` a number of tokens, or None for the whole prefix."""
    if "window" not in given:
        return None
    size, pad = given["window"], given.get("pad", "left")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise OptionError(
            f"roles['window']={size!r}: expected a number of tokens of at least 1, or None for the whole prefix"
        )
    if pad not in ("left", "right"):
        raise OptionError(f"roles['pad']={pad!r}: expected 'left' or 'right'")
    return Window(size, pad, pad_id or 0)


def window_contract(
    session: Session, graph: Graph, roles: Roles, auxiliary_inputs: Sequence[AuxiliaryInput], window: Window
) -> Contract:
    """The contract of a graph that takes the window's ids and scores the token after them.

    Raises:
        ModelError: it does not take such lengths, mixes rows, or does not look at the whole window.
    """
    if roles.token not in {port.name for port in graph.inputs}:
        raise ModelError(
            f"{graph.name}: the logits {roles.logits} do not depend on the token {roles.token}; pass other roles={{'token': name, 'logits': name}}"
        )
    rank = graph.rank(roles.token)
    if rank == 1:
        raise ModelError(
            f"{graph.name}: the token input {roles.token} takes one id a row, so it cannot take a window of them"
        )
    lengths = [window.size] if window.size else _LENGTHS
    try:
        layout = layouts.probe(session, roles.token, rank, roles.logits, [], auxiliary_inputs, times=[lengths[-1]])
    except ModelError as error:
        raise ModelError(f"{error}; {_ADVICE}") from error
    contract = Contract(
        layout.token, layout.logits, (), tuple(auxiliary_inputs), sequence=True, window=window, notes=tuple(roles.notes)
    )
    for length in lengths:
        _check_length(session, contract, length, max(1e-3, equivalence.tolerance(graph, ())))
    return contract


def check_any_length(name: str, contract: Contract, declared: Shape) -> None:
    """Refuse a graph that declares a fixed number of tokens and scores one position.

    Raises:
        ModelError: it is one. The file does not say whether shorter prefixes are padded; the message names the role that does.
    """
    time = contract.token.batch_and_time(declared)[1]
    if time is not None and time > 1 and contract.logits.layout == "BV":
        raise ModelError(
            f"{name}: it declares windows of {time} tokens; pass roles={{'window': {time}, 'pad': 'left'}} if shorter prefixes are filled up with the "
            "padding id (metadata decoding.pad, else 0) on that side, or roles={'window': None} if it takes prefixes of any length"
        )


def exported_steps(
    session: Session,
    graph: Graph,
    roles: Roles,
    declared: Shape,
    states: Sequence[StateShape],
    auxiliary_inputs: Sequence[AuxiliaryInput],
) -> int | None:
    """The number of steps that the token declares, if the graph takes that number and no other; else None.

    torch's dynamo exporter fixes every size that `dynamic_shapes` does not name (issue 14).
    """
    read = {port.name for port in graph.inputs}

    def shape_of_scores(token: Token, batch: int, time: int) -> tuple[int, ...] | None:
        """None where the run fails. Each state has its batch on its usual axis."""
        feeds = {aux.name: aux.value(token, batch, time) for aux in auxiliary_inputs}
        feeds |= {state.input: np.zeros(state.sized(state.axes[0], batch), state.dtype) for state in states}
        feeds[token.name] = token.arrange(np.zeros((batch, time), np.int64))
        try:
            return session.run({name: feeds[name] for name in feeds.keys() & read}, [roles.logits])[0].shape
        except ModelError:
            return None

    layouts_of_ids: tuple[TokenLayout, ...] = ("BT", "TB")
    for layout in layouts_of_ids:
        token = Token(roles.token, layout)
        batch, time = token.batch_and_time(declared)
        if time is None or time < 2:
            continue
        exact, *others = (shape_of_scores(token, batch or 3, n) for n in (time, time - 1, 1, time + 1))
        if exact is None:
            continue
        if len(exact) == 2:  # the last position's: an unrolled loop leaves out what is longer
            others = others[:2]
        # Where all positions have scores, an unrolled loop scores as many of them for any length.
        if all(shape is None or (shape == exact and len(exact) > 2) for shape in others):
            return time
    return None


def advice_on_steps(steps: int) -> str:
    """What is wrong with a graph that runs over exactly `steps` tokens, and the line that exports it right."""
    return (
        f"it was exported for exactly {steps} steps, and runs with no other number; export it with a dynamic time axis, in PyTorch torch.onnx.export(model, (tokens,), path, "
        "dynamo=True, dynamic_shapes=({0: torch.export.Dim('batch'), 1: torch.export.Dim('time')},)); where that fails, as the exporter unrolls the loop over time (nn.RNN, a loop in Python), "
        "export a single step with its state as an input and an output"
    )


def _check_length(session: Session, contract: Contract, length: int, tolerance: float) -> None:
    """Check that the graph looks at all of `length` tokens, and at each row alone.

    Raises:
        ModelError: it does not.
    """
    rng = np.random.default_rng(length)
    ids = rng.integers(0, contract.logits.vocab_size, (6, length))
    context = {f.name: f.value(contract.token, len(ids), length) for f in contract.row_inputs}
    scores = _scores(session, contract, ids, context)
    if len(scores) != len(ids):
        raise ModelError(
            f"{session.name}: for {len(ids)} rows it returns scores of {len(scores)}; the number of rows seems fixed in the file: "
            "export it with a dynamic batch axis"
        )
    if scores.shape[1] not in (1, length) or (scores.shape[1] == 1 < length and contract.logits.layout != "BV"):
        raise ModelError(
            f"{session.name}: for {length} tokens it returns scores of shape {list(scores.shape)}; {_ADVICE}"
        )
    alone = [
        _scores(session, contract, ids[row : row + 1], {name: value[row : row + 1] for name, value in context.items()})
        for row in range(len(ids))
    ]
    same = all(one.shape == scores[:1].shape for one in alone)
    if not (same and equivalence.difference(np.concatenate(alone), scores) <= tolerance):
        raise ModelError(
            f"{session.name}: the scores of a row depend on the other rows of its batch, so rows cannot be decoded together"
        )
    # A graph that scores every position has read them; one that scores only the last may not have.
    if length == _LENGTHS[1] and contract.logits.layout == "BV":
        for place, which in ((0, "first"), (-1, "last")):
            if _unused(session, contract, ids, context, scores, place):
                raise ModelError(
                    f"{session.name}: of {length} tokens it reads only one: the {which} token does not change the scores; {_ADVICE}"
                )


_ADVICE = (
    "the number of time steps seems fixed in the file, and it holds no recurrent layer whose state could be carried: export it with its state as an "
    "input and an output, or with a dynamic time axis, or, if it was trained on windows of W tokens, pass roles={'window': W, 'pad': 'left'}"
)


def _scores(session: Session, contract: Contract, ids: Array, context: Mapping[str, Array]) -> Array:
    """The scores [B, T or 1, V] of a run over rows of ids [B, T], each with its own contexts."""
    return contract.logits.arrange(session.run(contract.feeds(ids, context=context), [contract.logits.name])[0])


def _unused(
    session: Session, contract: Contract, ids: Array, context: Mapping[str, Array], scores: Array, place: int
) -> bool:
    """Return whether the last position's scores stay the same for other tokens at index `place`."""
    for shift in range(1, min(contract.logits.vocab_size, 4)):
        other = ids.copy()
        other[:, place] = (other[:, place] + shift) % contract.logits.vocab_size
        if not np.array_equal(_scores(session, contract, other, context)[:, -1], scores[:, -1]):
            return False
    return True
