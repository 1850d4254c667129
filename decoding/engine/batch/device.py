"""The batch of a model on a device: states, contexts and logits stay there."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding import kernels
from decoding.engine.batch.contexts import ContextRows, shared_initial_states
from decoding.engine.batch.reduction import Candidates
from decoding.engine.request import EngineRequest
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.model.passes.device_step import CHOICE, DRAW, STEP, Reduction
from decoding.model.runtime.session import Binding, DeviceArray

# Batches of this many rows or fewer are rounded up to a power of two, larger ones to a multiple of it: calls of any size share
# the few sets of buffers, and CUDA graphs, that there are.
_SLOTS = 64

# Shapes of contexts whose buffers are kept; a call keeps its own.
_SHAPES = 16


class DeviceBatch:
    """A `Batch` with a fixed number of slots on a device; the first `size` of them count.

    Moving rows costs nothing: the next step reads the states by row indices. Two sets of state buffers swap at every
    step, as on the CPU. One set would do for the indices, but the first run of a CUDA graph runs the network more than
    once, and the results are the same only if no run reads what an earlier one wrote.

    Attributes:
        draws: returns float64 [2, capacity], uniform numbers and temperatures, where the token is drawn on the device.
    """

    def __init__(
        self, network: Network, capacity: int, context: ContextRows, attention: bool, reduction: Reduction | None
    ) -> None:
        c = self._contract = network.contract
        self._network, self._reduction = network, reduction
        self._on_device = network.device_step(reduction)
        self._wants_attention = attention
        self.attention: Array | None = None
        self.context = context
        self.capacity = capacity
        self.size = 0
        self.draws: Callable[[], Array] | None = None
        self.tokens = np.zeros(capacity, np.int64)
        width = c.logits.vocab_size if reduction is None else max(1, reduction.count - (reduction.how == "best"))
        self.logits = np.zeros((capacity, width), np.float32)
        self.candidates: Candidates | None = None
        if reduction is not None:
            self.candidates = Candidates(np.zeros((capacity, width), np.int64), np.zeros(capacity))
        self._positions = np.zeros((sum(f.kind == "position" for f in c.auxiliary_inputs), capacity), np.int64)
        self._slots = slots_for(capacity)
        self._rows = np.arange(self._slots)
        self._rows_before = self._rows  # where the last step found the states that its rows started from
        self._feed = np.zeros((2 + len(self._positions), self._slots), np.int64)
        self._buffers: _Buffers | None = None
        self._bound: _Bound | None = None
        self._side = 0
        self._uploaded = -1  # version of the contexts that the device has
        self._layout = 0  # of the contexts' buffers that are bound
        self._nothing = self._states(1)  # `take` moves no row from these

    @property
    def read_chunk(self) -> Callable[[Array, Mapping[str, Array]], list[DeviceArray]] | None:
        """The method that reads many tokens in a run, where the device has kernels for it."""
        return self._read_chunk if self._network.reads_chunks_on_device else None

    def step(self) -> None:
        """Run the network once: `tokens` and the states in, `logits` (or the candidates) and the next states out."""
        buffers, n = self._buffers, self.capacity
        assert buffers is not None  # put() came first
        self._feed[0, :n], self._feed[1], self._feed[2:, :n] = self.tokens, self._rows, self._positions
        buffers.step.write(self._feed)
        if buffers.draw is not None:
            assert self.draws is not None
            given = np.ones((2, self._slots))
            given[:, :n] = self.draws()
            buffers.draw.write(given)
        if self.context.layout != self._layout:
            self._layout, self._bound, self.attention = self.context.layout, None, None
        bound = self._bound = self._bound or buffers.bound(self.context.rows(self.capacity))
        if self.context.version != self._uploaded:
            self._upload(bound)
        bound.sides[self._side].run()
        self._side ^= 1
        self._rows, self._rows_before = np.arange(self._slots), self._rows
        self._positions[:, : self.size] += 1
        self._collect(buffers, bound)

    def start(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start these requests at `slots`, from their initial states, which come after `read` ids."""
        initial, index = shared_initial_states(self._contract, requests)
        states = self._states(int(index.max()) + 1)
        for array, values in zip(states, initial, strict=True):
            array.write(values)
        self.put(slots, states, index, requests, read)

    def take(self, slots: Array) -> list[DeviceArray]:
        """Return a copy of the states of these rows."""
        return self._move(self._nothing, self._rows[slots], self._states(len(slots)))

    def states_before(self, slots: Array, steps: int) -> list[dict[str, Array]]:
        """Return a copy of the states of each of these rows as they are now, or as they were before the last step where `steps` is 1."""
        assert self._buffers is not None
        rows = (self._rows_before if steps else self._rows)[slots]
        own = zip(self._contract.states, self._buffers.states[self._side ^ steps], strict=True)
        taken = {s.input: np.moveaxis(array.read().take(rows, s.batch_axis), s.batch_axis, 0) for s, array in own}
        return [{name: values[row] for name, values in taken.items()} for row in range(len(slots))]

    def put(self, slots: Array, states: Sequence[DeviceArray], index: Array, requests: Sequence[EngineRequest], read: Array) -> None:  # fmt: skip
        """Start requests at `slots` from the rows `index` of `states`, which come after `read` ids."""
        self.tokens[slots] = [request.ids[at] for request, at in zip(requests, read, strict=True)]
        self.context.put(slots, requests, read)
        self._positions[:, slots] = read
        if self._buffers is None:
            self._buffers = self._borrow()
        wanted = self._rows.copy()
        wanted[slots] = self._slots + index
        self._move(states, wanted, self._buffers.states[self._side ^ 1])
        self._side ^= 1
        self._rows[:] = np.arange(self._slots)

    def grow(self, count: int) -> None:
        """Add rows at the end, for `start` or `put` to fill."""
        self.size += count

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `slots`, in that order; a slot may be named more than once."""
        self.size = n = len(slots)
        self._rows[:n] = self._rows[slots]
        self.tokens[:n] = self.tokens[slots]
        self._positions[:, :n] = self._positions[:, slots]
        self.context.keep(slots)

    def _read_chunk(self, slots: Array, feeds: Mapping[str, Array]) -> list[DeviceArray]:
        """Return the states after these tokens, which the rows at `slots` read in one run."""
        c = self._contract
        before, after = self.take(slots), self._states(len(slots))
        inputs: dict[str, Array | DeviceArray] = {**feeds}
        inputs |= {s.input: value for s, value in zip(c.states, before, strict=True)}
        outputs = {s.output: value for s, value in zip(c.states, after, strict=True)}
        self._network.session.bind(inputs, outputs, only_fetched=True).run()
        return after

    def _move(self, given: Sequence[DeviceArray], index: Array, to: list[DeviceArray]) -> list[DeviceArray]:
        """Copy rows of the states and, from `self._slots` on, of the given ones."""
        assert self._buffers is not None
        inputs: dict[str, Array | DeviceArray] = {"index": np.ascontiguousarray(index)}
        own = self._buffers.states[self._side]
        for state, mine, other in zip(self._contract.states, own, given, strict=True):
            inputs |= {state.input: mine, f"{state.input}/given": other}
        outputs = {s.output: array for s, array in zip(self._contract.states, to, strict=True)}
        self._on_device.mover.bind(inputs, outputs).run()
        return to

    def _states(self, rows: int) -> list[DeviceArray]:
        """Return new buffers."""
        session = self._on_device.session
        return [session.device_array(s.shape(rows), s.dtype) for s in self._contract.states]

    def _upload(self, bound: _Bound) -> None:
        """Copy the contexts to the device."""
        for name, values in self.context.rows(self.capacity).items():
            padded = np.zeros(bound.contexts[name].shape, values.dtype)
            padded[: self.capacity] = values
            bound.contexts[name].write(padded)
        self._uploaded = self.context.version

    def _collect(self, buffers: _Buffers, bound: _Bound) -> None:
        """Copy from the device the logits that the strategy needs, and the attention."""
        n = self.size
        if bound.attention is not None:
            if self.attention is None:
                self.attention = np.zeros((self.capacity, math.prod(bound.attention.shape[1:])), np.float32)
            self.attention[:n] = bound.attention.read()[:n].reshape(n, -1)
        if self.candidates is None or buffers.choice is None or self._reduction is None:
            self.logits[:n] = self._whole(buffers)[:n]
            return
        down, count = buffers.choice.read()[:n], self._reduction.count
        values, ids = down[:, :count].astype(np.float32), down[:, count:-1].astype(np.int64)
        self.candidates.normalizers[:n] = down[:, -1]
        if self._reduction.how == "best":
            values, ids = self._without_ties(buffers, values, ids, down[:, -1])
        self.logits[:n], self.candidates.ids[:n] = values, ids

    def _without_ties(self, buffers: _Buffers, values: Array, ids: Array, normalizers: Array) -> tuple[Array, Array]:
        """Return all but the last of the best, by ascending id.

        Among equals the lowest ids win, but a device's TopK need not follow that rule. Where the last that counts equals the
        one more that came down, the row's logits are looked at.
        """
        k = values.shape[1] - 1
        tied = np.isfinite(normalizers) & (values[:, k] == values[:, k - 1]) & np.isfinite(values[:, k])
        values, ids = values[:, :k], ids[:, :k]
        if tied.any():
            values[tied], ids[tied] = kernels.top_k(self._whole(buffers)[: self.size][tied], k)
        order = np.argsort(ids, axis=1)
        return np.take_along_axis(values, order, 1), np.take_along_axis(ids, order, 1)

    def _whole(self, buffers: _Buffers) -> Array:
        return buffers.logits.read().reshape(self._slots, -1)

    def _borrow(self) -> _Buffers:
        """Return buffers that no batch of this thread uses, with what was captured over them. They are free again when this batch is gone."""
        # onnxruntime keeps CUDA graphs for each thread.
        key = (self._slots, self._wants_attention, threading.get_ident())
        with self._on_device.lock:
            idle = self._on_device.idle.setdefault(key, [])
            buffers = idle.pop() if idle else None
        if buffers is None:
            buffers = _Buffers(self._network, self._reduction, self._slots, self._wants_attention)
        weakref.finalize(self, idle.append, buffers)
        return buffers


@dataclass(frozen=True)
class _Bound:
    """The two bindings of a step over contexts of certain shapes."""

    sides: tuple[Binding, Binding]
    contexts: dict[str, DeviceArray]
    attention: DeviceArray | None


class _Buffers:
    """What a step reads and writes on the device."""

    def __init__(self, network: Network, reduction: Reduction | None, slots: int, wants_attention: bool) -> None:
        c = self._contract = network.contract
        self._network, self._slots, self._wants_attention = network, slots, wants_attention
        self._session = network.device_step(reduction).session
        array = self._session.device_array
        self.states = tuple([array(s.shape(slots), s.dtype) for s in c.states] for _ in range(2))
        self.step = array((2 + sum(f.kind == "position" for f in c.auxiliary_inputs), slots), np.int64)
        self.logits = array(c.logits.shape(slots), np.float32)
        self.draw = self.choice = None
        self._inputs, self._outputs = {STEP: self.step}, {c.logits.name: self.logits}
        for aux in (f for f in c.auxiliary_inputs if f.kind in ("length", "mask")):
            value = aux.value(c.token, slots, 1)
            self._inputs[aux.name] = array(value.shape, value.dtype)
            self._inputs[aux.name].write(value)
        if reduction is not None:
            self._outputs[CHOICE] = self.choice = array((slots, 2 * reduction.count + 1), np.float64)
            if reduction.how == "draw":
                self._inputs[DRAW] = self.draw = array((2, slots), np.float64)
        self._bound: dict[Any, _Bound] = {}

    def bound(self, contexts: Mapping[str, Array]) -> _Bound:
        """Return the bindings for contexts of these shapes, made once."""
        shapes = tuple((name, value.shape[1:]) for name, value in contexts.items())
        if shapes not in self._bound:
            self._bound[shapes] = self._bind(contexts)
            if len(self._bound) > _SHAPES:
                del self._bound[next(iter(self._bound))]
        return self._bound[shapes]

    def _bind(self, contexts: Mapping[str, Array]) -> _Bound:
        c, array = self._contract, self._session.device_array
        placed = {name: array((self._slots, *value.shape[1:]), value.dtype) for name, value in contexts.items()}
        outputs, attention = dict(self._outputs), None
        if self._wants_attention:
            one = {name: value[:1] for name, value in contexts.items()}
            feeds = {
                **c.feeds(np.zeros((1, 1), np.int64), context=one),
                **{s.input: s.initial_rows(1) for s in c.states},
            }
            (weights,) = self._network.session.run(feeds, [str(c.attention)])
            outputs[str(c.attention)] = attention = array((self._slots, *weights.shape[1:]), np.float32)
        sides = []
        for before, after in (self.states, self.states[::-1]):
            into = {s.input: value for s, value in zip(c.states, before, strict=True)}
            out_of = {s.output: value for s, value in zip(c.states, after, strict=True)}
            sides.append(self._session.bind({**self._inputs, **placed, **into}, {**outputs, **out_of}))
        return _Bound((sides[0], sides[1]), placed, attention)


def slots_for(rows: int) -> int:
    """Return the number of slots for that many rows."""
    return 1 << (rows - 1).bit_length() if rows <= _SLOTS else -(-rows // _SLOTS) * _SLOTS
