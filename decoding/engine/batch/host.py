"""The batch of a model on the CPU: it keeps buffers at fixed addresses and runs the network over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding.engine.batch.contexts import ContextRows, ids_of_chunk, shared_initial_states
from decoding.engine.request import EngineRequest
from decoding.kernels import NativeRun
from decoding.model.contract.io import State
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.model.runtime.native import NativeSession
from decoding.model.runtime.session import Binding

# Tokens from which on a run of onnxruntime over all of them takes less time than as many steps, whose buffers are bound.
RUN = 4


class HostBatch:
    """A `Batch` on the CPU.

    The states ping-pong between two sets of buffers: a step reads one and writes the other, and
    nothing is copied. A native step needs one set. A binding is made once for each number of rows.

    Attributes:
        in_place: the step is native: it updates the states where they are.
        keeps_before: whether the states before the last step are wanted: a step in place then copies them first.
    """

    adds_up = False
    candidates = None

    def __init__(self, network: Network, capacity: int, context: ContextRows, attention: bool) -> None:
        c = self._contract = network.contract
        self._session, self._whole_session = network.step_session, network.read_session
        self._reads_runs = network.reads_chunks and c.logits.layout != "BV"
        self.in_place = isinstance(self._session, NativeSession)
        self.keeps_before = False
        self.context = context
        self.capacity = capacity
        self.size = 0
        self.tokens = np.zeros(capacity, np.int64)
        self.logits = np.zeros((capacity, c.logits.vocab_size), np.float32)
        self._states = [[np.zeros(s.initial.size * capacity, s.dtype) for s in c.states] for _ in range(2)]
        self._positions = [np.zeros(capacity, f.dtype) for f in c.auxiliary_inputs if f.kind == "position"]
        self._side = 0
        self._bindings: dict[int, tuple[Binding | NativeRun, Binding | NativeRun]] = {}
        self._layout = 0
        self._wants_attention = attention
        self.attention: Array | None = None
        self._weights_shape: tuple[int, ...] = ()

    def step(self) -> None:
        """Run the network once: `tokens` and the states in, `logits` and the next states out."""
        run = self.bound()
        self.copy_before()
        run.run()
        self.moved(1)

    def copy_before(self) -> None:
        """Keep the states before a step in place, where they are wanted."""
        if self.in_place and self.keeps_before:
            for now, before in zip(
                self._views(self._side, self.size), self._views(self._side ^ 1, self.size), strict=True
            ):
                before[:] = now

    def bound(self) -> Binding | NativeRun:
        """Return the run of the next step over these rows."""
        if self.context.layout != self._layout:  # bound to buffers that are no more
            self._layout, self.attention = self.context.layout, None
            self._bindings.clear()
        pair = self._bindings.get(self.size)
        if pair is None:
            if self._wants_attention and self.attention is None:
                self.attention = self._make_attention()
            pair = self._bindings[self.size] = self._bind(0), self._bind(1)
        return pair[self._side]

    def bound_aside(self) -> Binding | NativeRun:
        """Return the run over the other set of states, which a step in place leaves as they are."""
        return self._bindings[self.size][self._side ^ 1]

    def moved(self, steps: int) -> None:
        """Note that the bound run took that many steps."""
        if not self.in_place:
            self._side ^= 1
        for positions in self._positions:
            positions[: self.size] += steps

    def start(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start these requests at `slots`, from their initial states, which come after `read` ids."""
        states, index = shared_initial_states(self._contract, requests)
        self.put(slots, states, index, requests, read)

    def take(self, slots: Array) -> list[Array]:
        """Return a copy of the states of these rows."""
        own = zip(self._contract.states, self._views(self._side, self.size), strict=True)
        return [np.ascontiguousarray(value.take(slots, axis=s.batch_axis)) for s, value in own]

    def states_before(self, slots: Array, steps: int) -> list[dict[str, Array]]:
        """Return a copy of the states of each of these rows as they are now, or as they were before the last step where `steps` is 1."""
        views = zip(self._contract.states, self._views(self._side ^ steps, self.size), strict=True)
        taken = {s.input: _rows(value, s)[slots] for s, value in views}
        return [{name: values[row] for name, values in taken.items()} for row in range(len(slots))]

    def put(self, slots: Array, states: Sequence[Array], index: Array, requests: Sequence[EngineRequest], read: Array) -> None:  # fmt: skip
        """Start requests at `slots` from the rows `index` of `states`, which come after `read` ids."""
        self.tokens[slots] = [request.ids[at] for request, at in zip(requests, read, strict=True)]
        self.context.put(slots, requests, read)
        for positions in self._positions:
            positions[slots] = read
        for state, mine, given in zip(self._contract.states, self._views(self._side, self.size), states, strict=True):
            _rows(mine, state)[slots] = _rows(given, state)[index]

    def read_chunk(self, slots: Array, requests: Sequence[EngineRequest], start: Array, count: int) -> list[Array]:
        """Return the states after `count` more tokens of the requests at `slots`, which have read `start` ids."""
        c = self._contract
        feeds = c.feeds(ids_of_chunk(requests, start, count), start, self.context.of_chunk(requests, start, count))
        before = {s.input: value for s, value in zip(c.states, self.take(slots), strict=True)}
        return self._whole_session.run({**feeds, **before}, [s.output for s in c.states], only_fetched=True)

    def read_run(self, ids: Array) -> Array:
        """Read several tokens [size, time] of each row, and return the logits [size, time, V] after each.

        onnxruntime reads them in one run, where the graph takes several. The native step has nothing to gain by that.
        """
        c, (n, count) = self._contract, ids.shape
        if count < RUN or self.in_place or not self._reads_runs:
            steps = np.empty((n, count, c.logits.vocab_size), np.float32)
            for t in range(count):
                self.tokens[:n] = ids[:, t]
                self.step()
                steps[:, t] = self.logits[:n]
            return steps
        first = self._positions[0][:n] if self._positions else 0
        own = self._views(self._side, n)
        feeds = c.feeds(ids, first, self.context.rows(n)) | {s.input: v for s, v in zip(c.states, own, strict=True)}
        logits, *after = self._whole_session.run(feeds, [c.logits.name, *(s.output for s in c.states)])
        for mine, value in zip(own, after, strict=True):
            mine[:] = value
        for positions in self._positions:
            positions[:n] += count
        return np.ascontiguousarray(c.logits.arrange(logits))

    def grow(self, count: int) -> None:
        """Add rows at the end, for `start` or `put` to fill."""
        if self.size:
            self.keep(np.append(np.arange(self.size), np.zeros(count, np.int64)))
        else:
            self.size = count

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `slots`, in that order; a slot may be named more than once."""
        before, self.size = self._views(self._side, self.size), len(slots)
        self._side ^= 1
        for state, old, new in zip(self._contract.states, before, self._views(self._side, self.size), strict=True):
            np.take(old, slots, axis=state.batch_axis, out=new, mode="clip")
        for array in (self.tokens, *self._positions):
            array[: self.size] = array[slots]
        self.context.keep(slots)

    def _make_attention(self) -> Array:
        """Make a buffer for the weights, whose number only a run can tell."""
        c, n = self._contract, self.size
        feeds = c.feeds(self.tokens[:n, None], context=self.context.rows(n))
        states = {s.input: value for s, value in zip(c.states, self._views(self._side, n), strict=True)}
        (weights,) = self._session.run({**feeds, **states}, [str(c.attention)])
        self._weights_shape = weights.shape[1:]  # [source], or [1, source] where the graph keeps the step's axis
        return np.zeros((self.capacity, weights.size // n), np.float32)

    def _bind(self, side: int) -> Binding | NativeRun:
        c, n = self._contract, self.size
        inputs = {c.token.name: self.tokens[:n].reshape(c.token.shape(n))}
        inputs |= {f.name: f.value(c.token, n, 1) for f in c.auxiliary_inputs if not f.of_rows}
        inputs |= self.context.rows(n)
        moving = [f for f in c.auxiliary_inputs if f.kind == "position"]
        inputs |= {
            f.name: array[:n].reshape(inputs[f.name].shape) for f, array in zip(moving, self._positions, strict=True)
        }
        outputs = {c.logits.name: self.logits[:n].reshape(c.logits.shape(n))}
        if self.attention is not None:
            outputs[str(c.attention)] = self.attention[:n].reshape(n, *self._weights_shape)
        to = side if self.in_place else side ^ 1
        for state, before, after in zip(c.states, self._views(side, n), self._views(to, n), strict=True):
            inputs[state.input], outputs[state.output] = before, after
        return self._session.bind(inputs, outputs)

    def _views(self, side: int, n: int) -> list[Array]:
        return [
            flat[: s.initial.size * n].reshape(s.shape(n))
            for s, flat in zip(self._contract.states, self._states[side], strict=True)
        ]


def _rows(array: Array, state: State) -> Array:
    return np.moveaxis(array, state.batch_axis, 0)
