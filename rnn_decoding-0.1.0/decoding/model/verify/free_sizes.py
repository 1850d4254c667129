"""Sizes that differ from row to row: of states that follow a source or the tokens, of step contexts, of scores over a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import PROBE_SIZE, AuxiliaryInput
from decoding.model.contract.program import StepProgram
from decoding.model.graph.types import Shape
from decoding.model.verify.layouts import StateShape


def with_free_axis(
    state: StateShape, taken: Shape, given: Shape, contexts: Sequence[AuxiliaryInput], declared: Mapping[str, Shape]
) -> StateShape:
    """The state, told which of its axes has no fixed size, and which context it is as long as there.

    The names of the dimensions tell: a state as wide as a source shares the source's name for it, or keeps its own from
    input to output where there is one source. Otherwise the state grows with the tokens.

    Args:
        taken, given: shapes that the file declares for the state's input and output.
        contexts: the inputs that may be as long as the state is.
        declared: the shapes of all inputs.
    """
    unknown = [axis for axis, size in enumerate(state.sizes) if size is None and axis not in state.axes]
    if len(unknown) != 1 or taken is None:
        return state
    (axis,) = unknown
    sources = {
        aux.name: declared[aux.name] for aux in contexts if aux.kind == "context" and aux.source_axis is not None
    }
    shared = [
        name for name, dims in sources.items() if isinstance(taken[axis], str) and taken[axis] in (dims or ())[1:]
    ]
    keeps = taken[axis] is not None and given is not None and len(given) > axis and given[axis] == taken[axis]
    width_of = shared[0] if shared else next(iter(sources)) if keeps and len(sources) == 1 else ""
    sizes = tuple(PROBE_SIZE if i == axis else size for i, size in enumerate(state.sizes))
    return replace(state, sizes=sizes, free_axis=axis, width_of=width_of)


def check_fixed_vocabulary(program: StepProgram) -> None:
    """Refuse a graph whose scores are those of a source's positions: it has no vocabulary.

    Raises:
        ModelError: another length of the sources gives another number of scores.
    """
    contract, session = program.contract, program.session
    if all(aux.source_axis is None for aux in contract.contexts):
        return
    found = []
    for longer in (0, 1):
        feeds = _feeds_of_length(contract, longer)
        try:
            (scores,) = session.run(feeds, [contract.logits.name])
        except ModelError:  # it fixes the length of its sources, whatever it declares
            return
        found.append(contract.logits.arrange(scores).shape[-1])
    if found[0] != found[1]:
        names = ", ".join(aux.name for aux in contract.contexts if aux.source_axis is not None)
        raise ModelError(
            f"{program.graph.name}: the output {contract.logits.name} scores the positions of {names}, as a pointer network's does, and not the tokens of a vocabulary: for a source "
            f"one position longer it has {found[1]} scores and not {found[0]}. decode() chooses tokens of a fixed vocabulary; export scores over one, or scores of as many "
            "positions as the longest source has"
        )


def follows_tokens(program: StepProgram, name: str) -> bool:
    """Return whether a step context has as many values as a run has tokens: with more, the graph fails or scores more tokens."""
    contract, session = program.contract, program.session
    aux = next((aux for aux in contract.step_contexts if aux.name == name), None)
    if aux is None or not aux.timed:
        return True
    time = 3 if contract.sequence else 1
    ids = np.zeros((2, time), np.int64)
    feeds = {**contract.feeds(ids), **contract.initial_states(2, contract.probe_contexts(2))}
    feeds[name] = aux.value(contract.token, 2, time + 1)
    try:
        (scores,) = session.run(feeds, [contract.logits.name])
    except ModelError:
        return True
    return contract.logits.arrange(scores).shape[1] not in (1, time)


def _feeds_of_length(contract: Contract, longer: int) -> dict[str, np.ndarray]:
    """Everything that a run of two rows takes, with sources that are `longer` than those that are usually probed with."""
    ids = np.zeros((2, 1), np.int64)
    given = {}
    for aux in contract.all_auxiliary_inputs:
        if aux.kind == "context":
            sizes = list(aux.sizes)
            if aux.source_axis is not None and sizes[aux.source_axis] is None:
                sizes[aux.source_axis] = PROBE_SIZE + longer
            given[aux.name] = replace(aux, sizes=tuple(sizes)).value(contract.token, len(ids), 1)
        elif aux.kind in ("source_length", "source_mask"):
            about = next(one for one in contract.all_auxiliary_inputs if one.name == aux.source)
            width = about.sizes[about.source_axis or 0] or PROBE_SIZE + longer
            given[aux.name] = aux.of_source([width] * len(ids), width)
    stepped = {aux.name for aux in contract.auxiliary_inputs}
    feeds = contract.feeds(ids, context={name: value for name, value in given.items() if name in stepped})
    return {**feeds, **{s.input: s.initial_rows(len(ids), contract.width(s, given)) for s in contract.states}}
