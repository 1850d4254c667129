"""The batch of a model whose states differ in size from row to row: as wide as the row's source, or growing with its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.engine.batch.contexts import ContextRows, initial_states
from decoding.engine.request import EngineRequest
from decoding.model.graph.types import Array
from decoding.model.network import Network

# The states of a row, each with a batch axis of size 1.
RowStates = list[Array]


class RaggedBatch:
    """A `Batch` whose rows keep their states apart. A step runs the rows whose states have equal sizes together.

    Nothing is padded, because only the network knows how it would have to mask that. Rows of one prompt, and prompts
    of one length, stay equal. A step copies all states in and out.
    """

    candidates = None
    read_chunk = None  # rows of unequal states cannot share a run

    def __init__(self, network: Network, capacity: int, context: ContextRows, attention: bool) -> None:
        self._contract, self._session = network.contract, network.step_session
        self.capacity = capacity
        self.context = context
        self.size = 0
        self.tokens = np.zeros(capacity, np.int64)
        self.logits = np.zeros((capacity, network.vocab_size), np.float32)
        self.attention: Array | None = None
        self._wants_attention = attention
        self._positions = np.zeros(capacity, np.int64)
        self._states: list[RowStates] = [[] for _ in range(capacity)]
        self._before = self._states  # as they were before the last step

    def start(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start these requests at `slots`, from their initial states, which come after `read` ids."""
        first = {r.key: initial_states(self._contract, [r]) for r in requests}
        self.put(slots, [first[r.key] for r in requests], np.arange(len(requests)), requests, read)

    def take(self, slots: Array) -> list[RowStates]:
        """Return the states of these rows, which nothing writes to."""
        return [self._states[slot] for slot in slots]

    def states_before(self, slots: Array, steps: int) -> list[dict[str, Array]]:
        """Return the states of each of these rows as they are now, or as they were before the last step where `steps` is 1."""
        rows = self._before if steps else self._states
        return [
            {s.input: value.take(0, s.batch_axis) for s, value in zip(self._contract.states, rows[slot], strict=True)}
            for slot in slots
        ]

    def put(self, slots: Array, states: Sequence[RowStates], index: Array, requests: Sequence[EngineRequest], read: Array) -> None:  # fmt: skip
        """Start requests at `slots` from the rows `index` of `states`, which come after `read` ids."""
        self.tokens[slots] = [request.ids[at] for request, at in zip(requests, read, strict=True)]
        self._positions[slots] = read
        for slot, row in zip(slots, index, strict=True):
            self._states[slot] = states[row]
        self.context.put(slots, requests, read)

    def step(self) -> None:
        """Run the network once for the rows of each size of states: `tokens` and the states in, `logits` and the next states out."""
        self._before = list(self._states)
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for slot in range(self.size):
            groups.setdefault(tuple(state.shape for state in self._states[slot]), []).append(slot)
        context = self.context.rows(self.size)
        for slots in groups.values():
            self._run(np.array(slots), {name: values[slots] for name, values in context.items()})
        self._positions[: self.size] += 1

    def grow(self, count: int) -> None:
        """Add rows at the end, for `start` or `put` to fill."""
        self.size += count

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `slots`, in that order; a slot may be named more than once."""
        self.size = n = len(slots)
        self._states[:n] = self.take(slots)
        for array in (self.tokens, self._positions):
            array[:n] = array[slots]
        self.context.keep(slots)

    def _run(self, slots: Array, context: dict[str, Array]) -> None:
        c = self._contract
        feeds = c.feeds(self.tokens[slots, None], self._positions[slots], context)
        rows = self.take(slots)
        for i, state in enumerate(c.states):
            feeds[state.input] = np.concatenate([row[i] for row in rows], axis=state.batch_axis)
        names = [c.logits.name, *(s.output for s in c.states)]
        logits, *after = self._session.run(feeds, names + [str(c.attention)] * self._wants_attention)
        self.logits[slots] = c.logits.arrange(logits)[:, -1]
        if self._wants_attention:
            self._keep_attention(slots, after.pop().reshape(len(slots), -1))
        split = [np.split(value, len(slots), axis=s.batch_axis) for s, value in zip(c.states, after, strict=True)]
        for slot, *own in zip(slots, *split, strict=True):
            self._states[slot] = own

    def _keep_attention(self, slots: Array, weights: Array) -> None:
        """Write the weights of these rows, with zeros after their ends."""
        width = weights.shape[1]
        if self.attention is None or self.attention.shape[1] < width:
            wider = np.zeros((self.capacity, width), np.float32)
            if self.attention is not None:
                wider[:, : self.attention.shape[1]] = self.attention
            self.attention = wider
        self.attention[slots] = 0
        self.attention[slots, :width] = weights
