"""Reading prompts: from ids to the states before the first new token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.model.graph import Array
from decoding.model.model import Model

# Longest piece read in one run: it bounds the memory of the hidden sequences, [rows, piece, hidden] a layer.
_PIECE = 512


def prefill(model: Model, prompts: Sequence[Array]) -> list[Array]:
    """States after all but the last token of each prompt, the rows in the order of `prompts`.

    The last token is the first that the step loop feeds. Unequal prompts are read in waves: the first
    wave takes all of them as far as the shortest goes, the next the others as far as the next one, and so
    on, so nothing is padded. Where the graph takes a whole sequence a wave is one run, and the output
    projection, which nobody reads, is not computed.
    """
    c = model.contract
    if not c.states:
        return []
    lengths = np.array([len(p) - 1 for p in prompts])
    order = np.argsort(-lengths, kind="stable")
    states = [s.start(len(prompts)) for s in c.states]
    piece = _PIECE if c.sequence else 1
    read = 0
    while read < lengths.max():
        live = int((lengths > read).sum())
        end = min(int(lengths[order[live - 1]]), read + piece)
        ids = np.stack([prompts[i][read:end] for i in order[:live]])
        feeds = c.feeds(ids, read) | {
            s.input: np.ascontiguousarray(value.take(range(live), axis=s.batch_axis))
            for s, value in zip(c.states, states, strict=True)
        }
        after = model.session.run(feeds, [s.output for s in c.states], only_fetched=True)
        for s, value, new in zip(c.states, states, after, strict=True):
            np.moveaxis(value, s.batch_axis, 0)[:live] = np.moveaxis(new, s.batch_axis, 0)
        read = end
    back = np.argsort(order)
    return [value.take(back, axis=s.batch_axis) for s, value in zip(c.states, states, strict=True)]
