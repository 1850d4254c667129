"""The batch of a graph that cannot be stepped: every step runs the end of each prefix again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.engine.batch.contexts import ContextRows
from decoding.engine.request import EngineRequest
from decoding.errors import ModelError
from decoding.model.contract.io import Window
from decoding.model.graph.types import Array
from decoding.model.network import Network


class WindowBatch:
    """A `Batch` whose rows keep their ids: these are its states.

    With a fixed window all rows have one length and a step is one run; without one the rows of each length are
    run together. A step costs as much as the whole window: see `Model.describe()`.
    """

    adds_up = False
    candidates = None

    def __init__(self, network: Network, window: Window, capacity: int, context: ContextRows) -> None:
        self._contract, self._session, self._window = network.contract, network.session, window
        self.capacity = capacity
        self.context = context
        self.attention: Array | None = None  # a window has no weights of one step
        self.size = 0
        self.tokens = np.zeros(capacity, np.int64)
        self.logits = np.zeros((capacity, network.vocab_size), np.float32)
        self._prefixes: list[list[int]] = [[] for _ in range(capacity)]

    def start(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start these requests at `slots`, after `read` ids."""
        prefixes = [request.ids[:at].tolist() for request, at in zip(requests, read, strict=True)]
        self.put(slots, prefixes, np.arange(len(requests)), requests, read)

    def take(self, slots: Array) -> list[list[int]]:
        """Return a copy of the prefixes of these rows."""
        return [list(self._prefixes[slot]) for slot in slots]

    def states_before(self, slots: Array, steps: int) -> list[dict[str, Array]]:
        """Return no states: the ids are all that there is."""
        return [{} for _ in slots]

    def put(self, slots: Array, states: Sequence[list[int]], index: Array, requests: Sequence[EngineRequest], read: Array) -> None:  # fmt: skip
        """Start requests at `slots` from the prefixes `index` of `states`, which are their first `read` ids."""
        for slot, row, request, at in zip(slots, index, requests, read, strict=True):
            self._prefixes[slot] = list(states[row])
            self.tokens[slot] = request.ids[at]
        self.context.put(slots, requests, read)

    def read_chunk(self, slots: Array, requests: Sequence[EngineRequest], start: Array, count: int) -> list[list[int]]:
        """Return the prefixes with `count` more ids of the requests at `slots`; nothing is run before it is needed."""
        return [r.ids[: at + count].tolist() for r, at in zip(requests, start, strict=True)]

    def step(self) -> None:
        """Append `tokens` to the prefixes and run the part of them that the window shows."""
        for prefix, token in zip(self._prefixes[: self.size], self.tokens.tolist(), strict=False):
            prefix.append(token)
        lengths = np.array([self._window.shown(len(prefix)) for prefix in self._prefixes[: self.size]])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            self._run(rows, int(length))

    def grow(self, count: int) -> None:
        """Add rows at the end, for `start` or `put` to fill."""
        self.size += count

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `slots`, in that order; a slot may be named more than once."""
        self.size = len(slots)
        self.tokens[: self.size] = self.tokens[slots]
        self._prefixes[: self.size] = self.take(slots)  # copies: beams may share a parent
        self.context.keep(slots)

    def _run(self, rows: Array, length: int) -> None:
        c = self._contract
        ids = np.array([self._window.cut(self._prefixes[row], length) for row in rows], np.int64)
        context = {name: values[rows] for name, values in self.context.rows(self.size).items()}
        context |= self._step_contexts(rows, length)
        scores = c.logits.arrange(self._session.run(c.feeds(ids, context=context), [c.logits.name])[0])
        if (len(scores), scores.shape[2]) != (len(rows), self.logits.shape[1]):
            raise ModelError(
                f"{self._session.name}: {len(rows)} rows of {length} tokens have logits of shape {list(scores.shape)}: "
                f"expected [{len(rows)}, tokens, {self.logits.shape[1]}]; sizes in the graph depend on something other than rows and tokens"
            )
        # Right-padded rows end before the window does.
        ends = [self._window.end(len(self._prefixes[row]), scores.shape[1]) for row in rows]
        self.logits[rows] = scores[np.arange(len(rows)), ends]

    def _step_contexts(self, rows: Array, length: int) -> dict[str, Array]:
        """Return the contexts with a value for each token, of the tokens that the window shows; zeros where it is padded."""
        found: dict[str, list[Array]] = {aux.name: [] for aux in self._contract.step_contexts}
        for row in rows:
            end = len(self._prefixes[row])
            count = min(end, length)
            values = self.context.steps(int(row), end - count, count)
            for name, value in values.items():
                pad = [(0, 0)] * value.ndim
                pad[0] = (length - count, 0) if self._window.pad == "left" else (0, length - count)
                found[name].append(np.pad(value, pad))
        return {name: np.stack(values) for name, values in found.items() if values}
