"""The running batch of a graph that cannot be stepped: what it needs of the prefix is run anew at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decoding.engine.batch.contexts import ContextRows
from decoding.engine.request import Request
from decoding.model.contract.io import Window
from decoding.model.graph.types import Array
from decoding.model.model import Model


class WindowBatch:
    """As `RunningBatch`, but its rows keep their ids instead of states.

    With a fixed window every row is as long and a step is one run; without one the rows of each length are
    run together. A step costs as much as the whole window: see `Model.describe()`.
    """

    reads_chunks = True
    candidates = None

    def __init__(self, model: Model, window: Window, capacity: int, context: ContextRows) -> None:
        self._contract, self._session, self._window = model.contract, model.session, window
        self.capacity = capacity
        self.context = context
        self.attention = None  # a window has no weights of one step
        self.size = 0
        self.tokens = np.zeros(capacity, np.int64)
        self.logits = np.zeros((capacity, model.vocab_size), np.float32)
        self._prefixes: list[list[int]] = [[] for _ in range(capacity)]

    def start(self, prompts: Sequence[Request]) -> list[Array]:
        """No states, where `RunningBatch` has some; so with the other methods that give them."""
        return []

    def take(self, slots: Array) -> list[Array]:
        """None."""
        return []

    def read(self, slots: Array, feeds: Mapping[str, Array]) -> list[Array]:
        """None."""
        return []

    def step(self) -> None:
        """Append `tokens` to the prefixes and run what the window shows of them."""
        for prefix, token in zip(self._prefixes[: self.size], self.tokens.tolist(), strict=False):
            prefix.append(token)
        lengths = np.array([self._window.shown(len(prefix)) for prefix in self._prefixes[: self.size]])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            self._run(rows, int(length))

    def put(self, slots: Array, states: Sequence[Array], index: Array, prompts: Sequence[Request], read: Array) -> None:
        """Start rows at `places` after `read` ids of each prompt; there are no states to start them from."""
        for slot, prompt, at in zip(slots, prompts, read, strict=True):
            self._prefixes[slot] = prompt.ids[:at].tolist()
            self.tokens[slot] = prompt.ids[at]
        self.context.put(slots, prompts, read)

    def grow(self, count: int) -> None:
        """Add rows at the end, for `put` to fill."""
        self.size += count

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `places`, in that order; a place may be named more than once."""
        self.size = len(slots)
        self.tokens[: self.size] = self.tokens[slots]
        self._prefixes[: self.size] = [list(self._prefixes[slot]) for slot in slots]  # beams may share a parent
        self.context.keep(slots)

    def _run(self, rows: Array, length: int) -> None:
        c = self._contract
        ids = np.array([self._window.cut(self._prefixes[row], length) for row in rows], np.int64)
        context = {name: values[rows] for name, values in self.context.rows(self.size).items()}
        scores = c.logits.arrange(self._session.run(c.feeds(ids, context=context), [c.logits.name])[0])
        # Right-padded rows end before the window does.
        ends = [self._window.end(len(self._prefixes[row]), scores.shape[1]) for row in rows]
        self.logits[rows] = scores[np.arange(len(rows)), ends]
