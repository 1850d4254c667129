"""How long sequences and runs may be: graphs may hold only up to some number of tokens, such as a table of 64 positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.program import StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import STATE_SLOTS, Array
from decoding.model.verify import equivalence

# The longest run that decoding asks for (see engine/search/prefill.py), and the largest position that is tried.
LONGEST_RUN, _FAR = 512, 1 << 20
# Numbers in the scores, or in the states that grow, of the longest sequence that is tried: 64 MiB.
_NUMBERS = 1 << 24
# Products with weights of the longest run that is tried: below a second on one core.
_PRODUCTS = 1 << 33
# Tokens of the runs that a long one is compared with: verification has seen as many.
_PIECE = 32


def with_lengths(program: StepProgram) -> StepProgram:
    """The program, its contract told how many tokens a sequence and a run may have, where the graph sets a limit.

    Only a run can tell. A single step is run at far positions and after long pasts, a window over long prefixes. Runs
    over several tokens are compared with shorter ones, unless all states are those of recurrent layers, which take any
    number of tokens.
    """
    contract, notes = program.contract, []
    longest, why = _longest_sequence(program)
    if longest is not None:
        notes.append(f"a sequence has at most {longest} tokens: with more, {why}")
    run = None
    if contract.sequence and contract.window is None and not _only_layers(program.graph, contract):
        asked = min(LONGEST_RUN, longest or LONGEST_RUN)
        run = _longest_run(program, max(_PIECE, min(_tokens_to_try(program), asked)), asked)
    if run is not None:
        notes.append(
            f"a run reads at most {run} tokens: more fail, give other states than several runs, or were not tried"
        )
    return replace(program, contract=replace(contract, longest=longest, longest_run=run).with_notes(*notes))


def _longest_sequence(program: StepProgram) -> tuple[int | None, str]:
    """The number of tokens that a sequence may have, and why no more; None where none that was tried is too long."""
    contract, session = program.contract, program.session
    growing = [s for s in contract.states if s.grows]
    if contract.window is not None:
        if contract.window.size is not None:
            return None, ""
        most = min(_tokens_to_try(program), _NUMBERS // contract.logits.vocab_size)
    elif growing:
        most = min(LONGEST_RUN, _NUMBERS // sum(math.prod(s.initial_rows(1, 1).shape) for s in growing))
    elif any(aux.kind == "position" for aux in contract.auxiliary_inputs):
        most = _FAR
    else:
        return None, ""

    def run(tokens: int) -> None:
        ids = np.zeros((1, tokens if contract.window else 1), np.int64)
        states = contract.initial_states(1, contract.probe_contexts(1))
        states |= {s.input: s.initial_rows(1, tokens - 1) for s in growing}
        first = 0 if contract.window else tokens - 1
        session.run({**contract.feeds(ids, first), **states}, [contract.logits.name])

    return _most(run, most)


def _longest_run(program: StepProgram, most: int, asked: int) -> int | None:
    """The number of tokens that one run may read, of `most` that are tried; None where that is all that is `asked` for."""
    contract, session = program.contract, program.session
    names = [s.output for s in contract.states]
    ids = np.random.default_rng(0).integers(0, contract.logits.vocab_size, (1, most))
    contexts = contract.probe_contexts(1)

    def states_after(size: int) -> list[Array]:
        values = contract.initial_states(1, contexts)
        for at in range(0, most, size):
            found = session.run({**contract.feeds(ids[:, at : at + size], at), **values}, names, only_fetched=True)
            values = dict(zip(values, found, strict=True))
        return list(values.values())

    def run(tokens: int) -> None:
        session.run(
            {**contract.feeds(ids[:, :tokens]), **contract.initial_states(1, contexts)}, names, only_fetched=True
        )

    longest, _ = _most(run, most)
    if longest is not None:
        return longest
    within = max(1e-3, equivalence.tolerance(program.graph, contract.states))
    pairs = zip(states_after(most), states_after(_PIECE), strict=True)
    same = all(a.shape == b.shape and equivalence.difference(a, b) <= within for a, b in pairs)
    return _PIECE if not same else None if most >= asked else most


def _tokens_to_try(program: StepProgram) -> int:
    """How many tokens the longest run has that is tried."""
    weights = max(1, program.session.bytes // 4)
    return min(LONGEST_RUN, _PRODUCTS // weights)


def _only_layers(graph: Graph, contract: Contract) -> bool:
    """Return whether every state is one of a recurrent layer, a Loop or a Scan, and nothing else depends on the number of tokens."""
    slots = sum(len(STATE_SLOTS[node.op]) for node in graph.nodes if node.op in STATE_SLOTS)
    known = slots >= len(contract.states) or not any(s.exposed for s in contract.states)
    positions = any(aux.kind == "position" for aux in contract.auxiliary_inputs)
    return known and not positions and all(s.free_axis is None for s in contract.states)


def _most(run: Callable[[int], None], most: int) -> tuple[int | None, str]:
    """The largest number below `most` with which `run` works, and the error of the next one; None if it works with `most`."""
    works, fails, why = 1, most, _failure(run, most)
    if not why:
        return None, ""
    while fails - works > 1:
        middle = (works + fails) // 2
        failure = _failure(run, middle)
        works, fails, why = (works, middle, failure) if failure else (middle, fails, why)
    return works, why


def _failure(run: Callable[[int], None], size: int) -> str:
    """The message with which `run` fails; empty where it works."""
    try:
        run(size)
    except ModelError as error:
        return str(error)
    return ""
