"""The contexts of a batch's rows: the same at every step of a request, with a value for each token, or computed anew for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from decoding._types import StepInputs
from decoding.engine.latents import Latents
from decoding.engine.request import EngineRequest
from decoding.errors import OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import pad_to, pad_together
from decoding.model.graph.types import Array
from decoding.processors import History


class ContextRows:
    """The contexts of a batch's rows, in buffers that keep their addresses.

    Contexts of unequal length are padded to the longest that is in the batch; masks and lengths tell where each ends.

    Args:
        auxiliary_inputs: the contract's inputs that belong to rows.
        step_inputs: computes some of them anew before each step; the requests have the others.
        latents: of the call; those that are drawn anew at every step are written before it.

    Attributes:
        moves: some of them are written anew before each step, so that `refresh` must be called.
        version: how often the buffers were written to, for a reader that keeps a copy.
        layout: grows by one when buffers are replaced by others, so that their bindings must be made anew.
    """

    def __init__(
        self,
        auxiliary_inputs: Sequence[AuxiliaryInput],
        capacity: int,
        step_inputs: StepInputs | None = None,
        latents: Latents | None = None,
    ) -> None:
        self._inputs = {f.name: f for f in auxiliary_inputs}
        self._ends = [f for f in auxiliary_inputs if f.kind in ("source_length", "source_mask")]
        self._capacity, self._step_inputs = capacity, step_inputs
        self._latents = latents if latents is not None and latents.every_step else None
        self._steps = [f for f in auxiliary_inputs if f.kind == "step_context"]
        self.moves = bool(self._steps or self._latents or step_inputs)
        self._requests = np.empty(capacity, object)  # of the rows
        self._buffers: dict[str, Array] = {}
        self._lengths = {f.name: np.zeros(capacity, np.int64) for f in auxiliary_inputs if f.source_axis is not None}
        self._owners = np.full(capacity, -1)  # keys of the rows' requests; -1 where there is no row
        self._positions = np.zeros(capacity, np.int64)  # of the token that the next step feeds
        self.version = self.layout = 0

    def put(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Write the contexts of these requests, of which `read` ids are in the states, into these slots."""
        self._owners[slots] = [r.key for r in requests]
        self._positions[slots] = read
        self._requests[slots] = requests
        given = {name for r in requests for name in r.context}
        self._ends = [f for f in self._ends if f.name not in given]
        for name in (self._inputs.keys() & given) - {f.name for f in self._steps}:
            rows = [row for row, r in enumerate(requests) if name in r.context]
            self._write(name, slots[rows], [requests[row].context[name] for row in rows])

    def keep(self, slots: Array) -> None:
        """Move the rows at `slots` to the front; nothing moves among the beams of one request."""
        owners = self._owners[slots]
        if not np.array_equal(owners, self._owners[: len(slots)]):
            self.version += 1
            for array in (*self._buffers.values(), *self._lengths.values()):
                array[: len(slots)] = array[slots]
        for own in (self._positions, self._requests):
            own[: len(slots)] = own[slots]
        self._owners[: len(slots)] = owners
        self._owners[len(slots) :] = -1

    def source_length(self, slot: int, width: int) -> int:
        """Return how many of `width` weights over the source belong to the row's own source: the rest weighs padding."""
        lengths = [
            int(self._lengths[name][slot])
            for name, buffer in self._buffers.items()
            if name in self._lengths and buffer.shape[1 + (self._inputs[name].source_axis or 0)] == width
        ]
        return max(lengths, default=width)

    def refresh(self, histories: Callable[[], History], size: int) -> None:
        """Write what this step's tokens have of their own: step contexts, latents, what `step_inputs` computes."""
        if not self.moves:
            return
        at = self._positions[:size]
        values = step_contexts(self._steps, list(self._requests[:size]), at, 1)
        if self._latents is not None:
            values |= self._latents.steps(list(self._inputs.values()), self._owners[:size], at, 1)
        if self._step_inputs is not None:
            values |= self._step_inputs(histories())
        for name, value in values.items():
            self._write(name, np.arange(size), value)
        at += 1

    def of_chunk(self, requests: Sequence[EngineRequest], starts: Array, count: int) -> dict[str, Array]:
        """Return the contexts [requests, ...] for a run over `count` tokens of each request from `starts` on."""
        inputs = list(self._inputs.values())
        context = pad_together(inputs, [r.context for r in requests])
        context |= step_contexts(self._steps, requests, starts, count)
        if self._latents is not None:
            context |= self._latents.steps(inputs, np.array([r.key for r in requests]), starts, count)
        if self._step_inputs is not None:
            seen = [r.ids[: at + 1] for r, at in zip(requests, starts, strict=True)]
            context |= self._step_inputs(
                History(seen, [np.zeros(0, np.int64)] * len(seen), [r.index for r in requests])
            )
        return context

    def steps(self, slot: int, start: int, count: int) -> dict[str, Array]:
        """Return the values that a row has for `count` tokens from `start` on, [count, ...] by name."""
        found = step_contexts(self._steps, [self._requests[slot]], np.array([start]), count)
        return {name: value[0] for name, value in found.items()}

    def rows(self, size: int) -> dict[str, Array]:
        """Return the first `size` rows of each context."""
        return {name: buffer[:size] for name, buffer in self._buffers.items()}

    def _write(self, name: str, slots: Array, values: Sequence[Array] | Array) -> None:
        aux, axis = self._inputs[name], self._inputs[name].source_axis
        if axis is not None:
            self._lengths[name][slots] = [value.shape[axis] for value in values]
        shape = self._row_shape(name, slots, values)
        if name not in self._buffers or self._buffers[name].shape[1:] != shape:
            self._replace(name, shape)
        buffer = self._buffers[name]
        if isinstance(values, np.ndarray) and values.shape[1:] == shape:
            buffer[slots] = values
        else:
            for slot, value in zip(slots, values, strict=True):
                buffer[slot] = value if value.shape == shape else pad_to(value, shape, aux.pad_value)
        for end in self._ends:
            if end.source == name:
                self._tell_ends(end, slots, shape[axis or 0])
        self.version += 1

    def _row_shape(self, name: str, slots: Array, values: Sequence[Array] | Array) -> tuple[int, ...]:
        """Return the shape that holds the longest of the rows; a buffer that is twice too long shrinks."""
        axis, shape = self._inputs[name].source_axis, values[0].shape
        buffer = self._buffers.get(name)
        if axis is not None:
            live = np.union1d(np.flatnonzero(self._owners >= 0), slots)
            longest = self._inputs[name].sizes[axis] or int(self._lengths[name][live].max())
            now = 0 if buffer is None else buffer.shape[axis + 1]
            shape = (*shape[:axis], now if longest <= now <= 2 * longest else longest, *shape[axis + 1 :])
        if buffer is not None and (buffer.ndim != len(shape) + 1 or any(
            a != b for i, (a, b) in enumerate(zip(buffer.shape[1:], shape, strict=True)) if i != axis
        )):  # fmt: skip
            raise OptionError(
                f"context {name!r}: shape {list(values[0].shape)} a row; the rows before had {list(buffer.shape[1:])}"
            )
        return shape

    def _replace(self, name: str, shape: tuple[int, ...]) -> None:
        """Make a buffer of another length, with the content of the old one."""
        aux, old = self._inputs[name], self._buffers.get(name)
        new = self._buffers[name] = np.full((self._capacity, *shape), aux.pad_value, aux.dtype)
        if old is not None:
            both = tuple(slice(min(sizes)) for sizes in zip(old.shape, new.shape, strict=True))
            new[both] = old[both]
        for end in self._ends:
            if end.source == name and aux.source_axis is not None:
                self._buffers.pop(end.name, None)
                self._tell_ends(end, np.arange(self._capacity), shape[aux.source_axis])
        self.layout += 1

    def _tell_ends(self, end: AuxiliaryInput, slots: Array, width: int) -> None:
        """Write where the sources of these rows end."""
        values = end.of_source(self._lengths[end.source][slots], width)
        if end.name not in self._buffers:
            self._buffers[end.name] = np.zeros((self._capacity, *values.shape[1:]), end.dtype)
        self._buffers[end.name][slots] = values


def ids_of_chunk(requests: Sequence[EngineRequest], starts: Array, count: int) -> Array:
    """Return `count` ids of each request from `starts` on, [requests, count]."""
    return np.stack([r.ids[at : at + count] for r, at in zip(requests, starts, strict=True)])


def step_contexts(
    auxiliary_inputs: Sequence[AuxiliaryInput], requests: Sequence[EngineRequest], starts: Array, count: int
) -> dict[str, Array]:
    """Return the contexts that have a value for each token, of `count` tokens of each row from `starts` on.

    A row that is idle, or that has finished, may be past its last value and keeps that one.

    Returns:
        [rows, count, ...] for an input with a time axis; else, where count is 1, [rows, ...].
    """
    found = {}
    for aux in auxiliary_inputs:
        if aux.kind == "step_context" and all(aux.name in r.context for r in requests):
            rows = zip((r.context[aux.name] for r in requests), starts, strict=True)
            values = np.stack([row.take(np.arange(at, at + count), 0, mode="clip") for row, at in rows])
            found[aux.name] = values if aux.timed else values[:, 0]
    return found


def initial_states(contract: Contract, requests: Sequence[EngineRequest]) -> list[Array]:
    """Return the states that these requests start from: those of the request where it has some, else those of the model."""
    inputs = contract.initial_inputs
    contexts = pad_together(inputs, [r.context for r in requests]) if inputs else {}
    states = contract.initial_states(len(requests), contexts)
    for s in contract.states:
        given = {row: r.states[s.input] for row, r in enumerate(requests) if s.input in r.states}
        if len(given) == len(requests):
            states[s.input] = np.stack(list(given.values()), axis=s.batch_axis)
        elif given:
            values = states[s.input] = np.array(states[s.input])
            np.moveaxis(values, s.batch_axis, 0)[list(given)] = list(given.values())
    return list(states.values())


def shared_initial_states(contract: Contract, requests: Sequence[EngineRequest]) -> tuple[list[Array], Array]:
    """Return the initial states of each key among these requests, and for each request the row of its own."""
    first = {r.key: r for r in requests}
    rows = {key: row for row, key in enumerate(first)}
    return initial_states(contract, list(first.values())), np.array([rows[r.key] for r in requests])
