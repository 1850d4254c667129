"""Reads a step graph as a plain recurrent network: embedding, recurrent and dense layers, linear output. Or says what is in the way."""

from __future__ import annotations

import itertools

import numpy as np

from decoding.model.contract.contract import Contract
from decoding.model.contract.io import State
from decoding.model.graph.graph import Graph
from decoding.model.native.cell import ReadLayer, from_operator
from decoding.model.native.formulas import Formulas
from decoding.model.native.labels import ROWS
from decoding.model.native.network import Network
from decoding.model.native.read import Reader
from decoding.model.native.turns import turned_once
from decoding.model.native.vectors import Joined, NotNative, Source, Vector, what
from decoding.model.runtime.native import NativePlan, NativeState


def native_plan(graph: Graph, contract: Contract) -> NativePlan:
    """The network that a step graph computes.

    Raises:
        NotNative: it is none of those that the native step runs; the message names the first operator in the way.
    """
    if contract.window is not None:
        raise NotNative("it runs whole windows, no steps")
    if contract.attention is not None:
        raise NotNative(f"the attention over a source, whose weights are the output {contract.attention}")
    graph = turned_once(graph, contract)
    reader = Reader(graph, contract)
    reader.read()
    after = _next_states(reader, contract)
    layers = _layers(reader, after)
    if not layers:
        raise NotNative("no LSTM, GRU or RNN layer")
    maker = graph.producer(contract.logits.name)
    if maker is None or not reader.labels[contract.logits.name].size:
        raise NotNative("the logits are not computed from the token")
    network = Network(layers, reader.ids or contract.logits.vocab_size, _logits(reader, graph, contract), maker)
    states = [_state_pair(layer, contract) for layer in network.layers]
    token, out = (contract.token.name, contract.token.layout), (contract.logits.name, contract.logits.layout)
    return NativePlan(graph.name, network.arrays, token, out, states, network.contexts)


def _next_states(reader: Reader, contract: Contract) -> dict[Source, Vector]:
    """For each part of a state the vector that it gets, in the same place."""
    after = {}
    for state in contract.states:
        labels = reader.labels.get(state.output)
        maker = reader.maker(state.output)
        if maker is None or labels is None or labels.shape != state.shape(ROWS):
            raise NotNative(f"the state {state.output} has another shape than {state.input}")
        own = np.ascontiguousarray(np.moveaxis(labels, state.batch_axis, 0).reshape(ROWS, -1))
        vector, rows = reader.vector(maker, own)
        if not np.array_equal(rows, np.arange(ROWS)):
            raise NotNative(f"the state {state.output} holds its rows in another order")
        pieces = vector.pieces if isinstance(vector, Joined) else (vector,)
        ends = itertools.accumulate(piece.size for piece in pieces)
        for piece, end in zip(pieces, ends, strict=True):
            after[reader.state(state, end - piece.size, end)] = piece
    return after


def _layers(reader: Reader, after: dict[Source, Vector]) -> list[ReadLayer]:
    """The layers with states, in the order in which they are computed; each state belongs to one of them."""
    layers = [from_operator(layer) for layer in reader.layers]
    for layer in layers:
        for state, value in zip(layer.states, layer.after, strict=True):
            if after.pop(state, None) is not value:
                raise NotNative(f"the state {state.of[0]} does not get what {what(layer.node)} gives")
    formulas = Formulas(reader.pieces, after)
    found = [layer for layer in map(formulas.layer, after) if layer is not None]
    taken = [state for layer in found for state in layer.states]
    for state, value in sorted(after.items(), key=lambda item: item[1].number):
        if taken.count(state) != 1:
            raise NotNative(f"{what(value.node)}, as the next value of the state {state.of[0]} by no formula of an LSTM, GRU or RNN")  # fmt: skip
    return sorted((*layers, *found), key=lambda layer: layer.after[0].number)


def _logits(reader: Reader, graph: Graph, contract: Contract) -> Vector:
    logits, maker = contract.logits, graph.producer(contract.logits.name)
    assert maker is not None
    labels = reader.labels[logits.name]
    if labels.shape != logits.shape(ROWS):
        raise NotNative(f"{what(maker)} gives logits of shape {list(labels.shape)}")
    axes = [logits.layout.index(axis) for axis in ("BV" if logits.layout == "BV" else "BTV")]
    vector, rows = reader.vector(maker, np.ascontiguousarray(labels.transpose(axes)))
    if not np.array_equal(rows, np.arange(ROWS)):
        raise NotNative(f"{what(maker)} gives the logits of rows in another order")
    return vector


def _state_pair(layer: ReadLayer, contract: Contract) -> tuple[NativeState | None, NativeState | None]:
    """Where a layer's h and c lie in the graph's states."""
    found = [_native_state(state, contract) for state in layer.states]
    h, c = (*found, None, None)[:2]
    return h, c


def _native_state(part: Source, contract: Contract) -> NativeState:
    name, place = part.of
    state: State = next(s for s in contract.states if s.input == name)
    inner = int(np.prod(state.initial.shape[state.batch_axis + 1 :]))
    if place % inner + part.size > inner:  # the kernels work on a row's numbers where they lie, side by side
        raise NotNative(f"the state {name}, whose batch axis comes after its numbers")
    return NativeState(name, state.output, state.batch_axis, place)
