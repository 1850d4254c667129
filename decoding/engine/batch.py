"""The running batch: buffers that stay where they are, and the network run over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.model.contract import State
from decoding.model.graph import Array
from decoding.model.loading import Model
from decoding.model.session import Binding


class RunningBatch:
    """Up to `capacity` rows that take one step together.

    The states ping-pong between two sets of buffers: a step reads one and writes the other, and
    nothing is copied. A binding is made once for each number of rows.

    Attributes:
        tokens: int64 [capacity], what the next step feeds.
        logits: float32 [capacity, V], what the last step gave; the first `size` rows count.
        size: rows in the batch.
    """

    def __init__(self, model: Model, capacity: int) -> None:
        c = self._contract = model.contract
        self._session = model.session
        self.capacity = capacity
        self.size = 0
        self.tokens = np.zeros(capacity, np.int64)
        self.logits = np.zeros((capacity, c.logits.vocab_size), np.float32)
        self._states = [[np.zeros(s.initial.size * capacity, s.dtype) for s in c.states] for _ in range(2)]
        self._side = 0
        self._bindings: dict[int, tuple[Binding, Binding]] = {}

    def states(self) -> list[Array]:
        """The states that the next step reads, one array for each of the contract's, as views."""
        return self._views(self._side, self.size)

    def step(self) -> None:
        """Run the network once: `tokens` and the states in, `logits` and the next states out."""
        if self.size not in self._bindings:
            self._bindings[self.size] = self._bind(0), self._bind(1)
        self._bindings[self.size][self._side].run()
        self._side ^= 1

    def put(self, positions: Array, states: Sequence[Array], index: Array) -> None:
        """Start rows at `positions` from the rows `index` of `states`."""
        for state, mine, given in zip(self._contract.states, self.states(), states, strict=True):
            _rows(mine, state)[positions] = _rows(given, state)[index]

    def keep(self, positions: Array) -> None:
        """Shrink to the rows at `positions`, in that order."""
        before, self.size = self.states(), len(positions)
        self._side ^= 1
        for state, old, new in zip(self._contract.states, before, self.states(), strict=True):
            np.take(old, positions, axis=state.batch_axis, out=new, mode="clip")
        self.tokens[: self.size] = self.tokens[positions]

    def _bind(self, side: int) -> Binding:
        c, n = self._contract, self.size
        inputs = {c.token.name: self.tokens[:n].reshape(c.token.shape(n))}
        outputs = {c.logits.name: self.logits[:n].reshape(c.logits.shape(n))}
        for state, before, after in zip(c.states, self._views(side, n), self._views(side ^ 1, n), strict=True):
            inputs[state.input], outputs[state.output] = before, after
        return self._session.bind(inputs, outputs)

    def _views(self, side: int, n: int) -> list[Array]:
        return [
            flat[: s.initial.size * n].reshape(s.shape(n))
            for s, flat in zip(self._contract.states, self._states[side], strict=True)
        ]


def _rows(array: Array, state: State) -> Array:
    return np.moveaxis(array, state.batch_axis, 0)
