"""Reading prompts: from ids to the states before the first new token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.engine.context import StepInputs, start_states, step_values
from decoding.engine.job import Prompt
from decoding.model.graph import Array
from decoding.model.model import Model
from decoding.model.padding import pad_together
from decoding.processors import History

# Longest piece read in one run: it bounds the memory of the hidden sequences, [rows, piece, hidden] a layer.
_PIECE = 512


def prefill(model: Model, prompts: Sequence[Prompt], step_inputs: StepInputs | None = None) -> list[Array]:
    """States after all but the last token of each prompt, the rows in the order of `prompts`.

    The last token is the first that the step loop feeds. Unequal prompts are read in waves: the first
    wave takes all of them as far as the shortest goes, the next the others as far as the next one, and so
    on, so nothing is padded. Where the graph takes a whole sequence a wave is one run, and the output
    projection, which nobody reads, is not computed.
    """
    c = model.contract
    if not c.states:
        return []
    lengths = np.array([len(p.ids) - 1 for p in prompts])
    order = np.argsort(-lengths, kind="stable")
    states = start_states(c, prompts)
    piece = _PIECE if c.sequence and step_inputs is None and not c.draws_alone else 1
    empty = np.zeros(0, np.int64)
    fills = {f.name: f for f in c.contexts}
    read = 0
    while read < lengths.max():
        live = int((lengths > read).sum())
        end = min(int(lengths[order[live - 1]]), read + piece)
        own = [prompts[i] for i in order[:live]]
        context = pad_together(c.row_fills, [p.context for p in own])
        if (draws := own[0].draws) is not None:
            keys = np.array([p.index for p in own])
            context |= draws.steps(c.fills, keys, np.full(live, read), end - read)
        if step_inputs is not None:
            history = History([p.ids[:end] for p in own], [empty] * live)
            context |= step_values(fills, step_inputs, history, live)
        feeds = c.feeds(np.stack([p.ids[read:end] for p in own]), read, context) | {
            s.input: np.ascontiguousarray(value.take(range(live), axis=s.batch_axis))
            for s, value in zip(c.states, states, strict=True)
        }
        after = model.session.run(feeds, [s.output for s in c.states], only_fetched=True)
        for s, value, new in zip(c.states, states, after, strict=True):
            np.moveaxis(value, s.batch_axis, 0)[:live] = np.moveaxis(new, s.batch_axis, 0)
        read = end
    back = np.argsort(order)
    return [value.take(back, axis=s.batch_axis) for s, value in zip(c.states, states, strict=True)]
