"""`NativeSession`: runs a step graph by the kernels of csrc/, over the same inputs and outputs as an onnxruntime session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoding.errors import ModelError
from decoding.kernels import NativeNetwork, NativeRun
from decoding.kernels.native.layers import NativeArrays
from decoding.model.graph.types import Array

# A larger table of embedding and first layer's input weights costs more in loading than its steps save.
LARGEST_TABLE = 16 << 20  # bytes
# Nor is a table made that saves less than this share of a step's products: that of 1x32 over 5,000 words saves 2 %, and takes
# three quarters of the time in which its weights are replaced.
LEAST_SAVED = 1 / 16


@dataclass(frozen=True)
class NativeState:
    """Where a layer's state lies in the graph's.

    Attributes:
        input, output: of the graph.
        batch_axis: of the graph's state.
        offset: of the layer's first number in a row of the graph's state.
    """

    input: str
    output: str
    batch_axis: int
    offset: int


@dataclass(frozen=True)
class NativePlan:
    """What a step graph computes, as arrays, and the graph's inputs and outputs for it.

    Attributes:
        token, logits: names, with the order of their axes: "BT", "BTV".
        states: for each layer its h and, for LSTM, its c; of a dense layer neither.
        contexts: names of the inputs that `arrays.contexts` multiply.
    """

    name: str
    arrays: NativeArrays
    token: tuple[str, str]
    logits: tuple[str, str]
    states: Sequence[tuple[NativeState | None, NativeState | None]]
    contexts: Sequence[str]


class NativeSession:
    """A network with packed weights, to be run by any number of threads.

    Attributes:
        int8: its weights are int8.
    """

    def __init__(self, plan: NativePlan, *, int8: bool = False) -> None:
        self._plan, self.int8 = plan, int8
        self._network = NativeNetwork(plan.arrays, int8=int8, table=_has_table(plan.arrays, int8), name=plan.name)
        self._state_names = {s.output: s.input for pair in plan.states for s in pair if s is not None}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str], *, only_fetched: bool = False) -> list[Array]:
        """Run once over arrays and return the named outputs: logits and next states.

        Args:
            only_fetched: has no effect: logits are computed only where they are wanted.

        Raises:
            ModelError: a token lies outside the vocabulary, or an input has a wrong shape.
        """
        plan = self._plan
        token, layout = plan.token
        ids = feeds[token]
        ids = ids[:, None] if layout == "B" else ids.T if layout == "TB" else ids
        states = {s: np.array(feeds[s], np.float32, order="C") for s in self._state_names.values()}
        logits = None
        if plan.logits[0] in outputs:
            logits = np.empty((ids.shape[1], len(ids), len(plan.arrays.output)), np.float32)
        self._bound(np.ascontiguousarray(ids, np.int64), states, logits, feeds).run()
        found = {output: states[name] for output, name in self._state_names.items()}
        if logits is not None:
            found[plan.logits[0]] = _arranged(logits, plan.logits[1])
        return [found[name] for name in outputs]

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> NativeRun:
        """Prepare runs of one token a row that read inputs from these arrays and write outputs into these.

        The states are updated in place: those of `outputs` are those of `inputs`.
        """
        ids = inputs[self._plan.token[0]].reshape(-1, 1)
        logits = outputs[self._plan.logits[0]].reshape(1, len(ids), -1)
        return self._bound(ids, {name: inputs[name] for name in self._state_names.values()}, logits, inputs)

    def _bound(
        self,
        ids: Array,
        states: Mapping[str, Array],
        logits: Array | None,
        feeds: Mapping[str, Array],
    ) -> NativeRun:
        """A run that updates `states` in place."""
        pairs = [
            (
                None if h is None else _rows(states, h, layer.width, len(ids)),
                None if c is None else _rows(states, c, layer.hidden, len(ids)),
            )
            for (h, c), layer in zip(self._plan.states, self._plan.arrays.layers, strict=True)
        ]
        contexts = [feeds[name].reshape(len(ids), -1) for name in self._plan.contexts]
        try:
            return self._network.bind(ids, pairs, logits, contexts)
        except ValueError as error:
            raise ModelError(f"{self._plan.name}: the native step cannot take these inputs: {error}") from error


def _has_table(arrays: NativeArrays, int8: bool) -> bool:
    """Return whether the embedding and the first layer's input weights become one table.

    The table of int8 weights is worth its time even where it saves little: it is computed in float32.
    """
    saved = arrays.layers[0].input.size
    fits = arrays.vocabulary * len(arrays.layers[0].input) * 4 <= LARGEST_TABLE
    return fits and (int8 or saved >= LEAST_SAVED * arrays.multiplied)


def _rows(states: Mapping[str, Array], where: NativeState, hidden: int, rows: int) -> Array:
    """A layer's part of a state, [rows, hidden], without a copy."""
    state = states[where.input]
    inner = int(np.prod(state.shape[where.batch_axis + 1 :]))  # numbers of a row that lie together
    first = where.offset // inner * inner * rows + where.offset % inner
    flat = state.reshape(-1)[first:]
    return np.lib.stride_tricks.as_strided(flat, (rows, hidden), (inner * state.itemsize, state.itemsize))


def _arranged(logits: Array, layout: str) -> Array:
    """Logits [time, rows, V] in the graph's layout."""
    if layout == "BV":
        return np.ascontiguousarray(logits[-1])
    return np.ascontiguousarray(logits.transpose(["TBV".index(axis) for axis in layout]))
