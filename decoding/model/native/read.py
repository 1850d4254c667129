"""Follows the operators of a step graph and finds the vectors that they compute.

Each tensor that depends on tokens, states or contexts is followed number by number through one step of a few rows.
Each number has a label: which vector it is part of, its row, and its place there. Operators that only re-arrange
numbers move the labels. So a graph is understood exactly or not at all: the refusal names the operator that
is not understood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import State
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array
from decoding.model.native.cell import OperatorLayer
from decoding.model.native.elementwise import ELEMENTWISE, Operand
from decoding.model.native.labels import ROWS, Labels
from decoding.model.native.token import FUNCTIONS
from decoding.model.native.vectors import NotNative, Source, TokenVector, combined, product, what
from decoding.model.native.views import VIEWS
from decoding.model.passes.recurrent_cells import read_layer, why_not_plain
from decoding.model.runtime.session import Session


class Reader(Labels):
    """The vectors of one step.

    Attributes:
        layers: the LSTM, GRU and RNN operators, in order.
        ids: the number of token ids, as far as an embedding or one-hot vectors tell; else 0.
    """

    def __init__(self, graph: Graph, contract: Contract) -> None:
        super().__init__()
        self._graph, self._contract = graph, contract
        self._constants: dict[str, Array] = {}
        self._states: dict[str, Source] = {}
        self.layers: list[OperatorLayer] = []
        self.ids = 0

    def read(self) -> None:
        """Follow all operators that the logits and the states need."""
        graph, c = self._graph, self._contract
        self._inputs()
        wanted = [c.logits.name, *(s.output for s in c.states)]
        needed = graph.ancestors(*wanted)
        nodes = [n for n in graph.nodes if needed.intersection(n.outputs)]
        followed = [n for n in nodes if self._depends(n)]
        self._find_constants([n for n in followed if n.op in _OPERATORS or n.op in VIEWS or n.op in FUNCTIONS])
        for node in followed:
            try:
                self._follow(node)
            except (ValueError, LookupError, TypeError) as error:
                # NumPy on a form of the operator that onnxruntime takes and that is not expected here
                raise NotNative(f"{what(node)}: {error}") from error

    def state(self, state: State, start: int, end: int) -> Source:
        """The numbers of a state from `start` to `end`."""
        part = self.pieces.part(self._states[state.input], start, end)
        assert isinstance(part, Source)
        return part

    def maker(self, name: str) -> Node | None:
        """The operator that gives a tensor."""
        return self._graph.producer(name)

    # -- inputs and constants ---------------------------------------------------------------------------

    def _inputs(self) -> None:
        c = self._contract
        token = TokenVector(1, lambda ids: ids[:, None])
        self.labels[c.token.name] = self.labelled(token)[:, 0].reshape(c.token.shape(ROWS))
        for state in c.states:
            if state.free_axis is not None:
                raise NotNative(f"the state {state.input}, which has no fixed size")
            if state.dtype != np.float32 or not state.initial.size:
                raise NotNative(f"the state {state.input} is {state.dtype} of {state.initial.size} numbers")
            self._states[state.input] = Source(state.initial.size, "state", (state.input, 0))
            labels = self.labelled(self._states[state.input])
            shape = np.moveaxis(np.empty(state.shape(ROWS)), state.batch_axis, 0).shape
            self.labels[state.input] = np.moveaxis(labels.reshape(shape), 0, state.batch_axis)
        for aux in c.auxiliary_inputs:
            if aux.kind in ("mask", "length"):
                continue  # ones: a constant, as a step has one token that is no padding
            fixed = aux.kind in ("context", "latent") and not aux.timed and None not in aux.sizes
            if fixed and aux.dtype == np.float32:
                sizes = tuple(size or 0 for size in aux.sizes)
                labels = self.labelled(Source(math.prod(sizes), "context", aux.name))
                self.labels[aux.name] = labels.reshape(ROWS, *sizes)
            else:
                self.labels[aux.name] = np.zeros(0, np.int64)  # whatever reads it is refused

    def _depends(self, node: Node) -> bool:
        """Whether numbers of an input enter the operator, rather than sizes alone; its outputs then have labels to come."""
        if node.op in ("Shape", "Size") or not any(n in self.labels for n in (*node.inputs, *node.captures())):
            return False
        self.labels |= {name: np.zeros(0, np.int64) for name in node.outputs if name}
        return True

    def _find_constants(self, nodes: Sequence[Node]) -> None:
        """Find all constants of these operators: weights as they are, what follows from sizes by one run."""
        graph, computed = self._graph, dict[str, None]()
        for node in nodes:
            for name in node.inputs:
                if name and name not in self.labels and name not in self._constants:
                    value = graph.constant(name)
                    if value is None:
                        computed[name] = None
                    else:
                        self._constants[name] = value
        if computed:
            c, part = self._contract, graph.part(computed)
            feeds = c.feeds(np.zeros((ROWS, 1), np.int64))
            feeds |= {s.input: s.initial_rows(ROWS) for s in c.states}
            wanted = {port.name for port in part.inputs}
            try:
                found = Session(part, threads=1).run({n: v for n, v in feeds.items() if n in wanted}, list(computed))
            except ModelError as error:
                raise NotNative(f"a part of the graph that does not run alone: {error}") from error
            self._constants |= dict(zip(computed, found, strict=True))

    # -- operators ---------------------------------------------------------------------------------------

    def _follow(self, node: Node) -> None:
        for name in node.inputs:
            if name in self.labels and not self.labels[name].size:
                aux = next((a for a in self._contract.auxiliary_inputs if a.name == name), None)
                raise NotNative(f"{what(node)} reads {name}" + (f", a {aux.kind}" if aux is not None else ""))
        if self._token_function(node):
            return
        if node.op in VIEWS:
            values = [self.labels.get(name, self._constants.get(name)) if name else None for name in node.inputs]
            labelled = [name in self.labels for name in node.inputs]
            if node.op == "Concat" and any(labelled):
                self._label_constants(node, values, labelled)
            moved = VIEWS[node.op](node, values, labelled)
            if moved is None:
                mixed = " mixes constants with what is computed" if node.op == "Concat" else ""
                raise NotNative(f"{what(node)}{mixed}")
            self.labels |= {name: value for name, value in zip(node.outputs, moved, strict=False) if name}
        elif node.op in _OPERATORS:
            _OPERATORS[node.op](self, node)
        else:
            raise NotNative(what(node))

    def _label_constants(self, node: Node, values: list[Array | None], labelled: list[bool]) -> None:
        """Give the constants of a Concat labels of the rows that they stand beside, where all rows have the same."""
        beside = next(v for v, known in zip(values, labelled, strict=True) if known)
        if beside is None or node.attribute("axis", 0) not in (-1, beside.ndim - 1):
            return
        rows = self.rows_of(beside[..., 0])
        for i, value in enumerate(values):
            if labelled[i] or value is None or value.shape[:-1] != rows.shape:
                continue
            flat = value.reshape(-1, value.shape[-1])
            if (flat == flat[:1]).all():
                fixed = combined((), flat[0].astype(np.float64), node)
                values[i], labelled[i] = self.spread(fixed, rows.ravel(), value.shape), True

    def _token_function(self, node: Node) -> bool:
        """Follow an operator that computes numbers from the token alone, such as ``where(id < 0, id + n, id)``; False if it is none."""
        function = FUNCTIONS.get(node.op)
        if function is None or not all(not n or n in self.labels or n in self._constants for n in node.inputs):
            return False
        tokens = [self.of_token(self.labels[n]) if n in self.labels else None for n in node.inputs]
        constants = [self._constants.get(n) for n in node.inputs]
        if any(t is None and c is None for t, c in zip(tokens, constants, strict=True)):
            return False
        whole = np.broadcast(*(self.labels[n] if n in self.labels else self._constants[n] for n in node.inputs))
        rows = np.broadcast_to(self.rows_of(next(self.labels[n] for n in node.inputs if n in self.labels)), whole.shape)
        wide = max((c.shape[-1] if c.ndim else 1 for c in constants if c is not None), default=1)
        if any(c is not None and c.size not in (1, wide) for c in constants):
            return False
        fixed = [None if c is None else c.reshape(1, -1) for c in constants]

        def values(ids: Array) -> Array:
            found = [t.values(ids) if t is not None else c for t, c in zip(tokens, fixed, strict=True)]
            return np.asarray(function(node, *found))

        vector = TokenVector(wide, values, node=node)
        if wide == 1:
            self.labels[node.outputs[0]] = self.labelled(vector)[:, 0][rows]
        else:
            self.labels[node.outputs[0]] = self.spread(vector, rows[..., 0].ravel(), whole.shape)
        return True

    def gather(self, node: Node) -> None:
        """An embedding, or a choice among positions."""
        if node.input(0) in self.labels:
            if node.input(1) in self.labels:
                raise NotNative(what(node))
            index = np.asarray(self._constants[node.input(1)])
            self.labels[node.outputs[0]] = np.take(self.labels[node.input(0)], index, node.attribute("axis", 0))
            return
        table, labels = self._weights(node, 0), self.labels[node.input(1)]
        token = self.of_token(labels)
        if node.attribute("axis", 0) != 0 or token is None:
            raise NotNative(what(node))
        index = token.values(np.arange(len(table)))[:, 0]
        if np.array_equal(index, np.arange(len(table))):
            vector = TokenVector(table.shape[1], lambda ids: table[ids], table, node=node)
            self._count_ids(node, len(table))
        else:
            outside = np.flatnonzero((index < -len(table)) | (index >= len(table)))
            self._count_ids(node, int(outside[0]) if outside.size else len(table))
            vector = TokenVector(table.shape[1], lambda ids: table[token.values(ids)[:, 0]], node=node)
        shape = (*labels.shape, vector.size)
        self.labels[node.outputs[0]] = self.spread(vector, self.rows_of(labels).ravel(), shape)

    def one_hot(self, node: Node) -> None:
        """Ids as vectors."""
        labels, depth = self.labels[node.input(0)], int(np.asarray(self._constants[node.input(1)]).reshape(-1)[0])
        off, on = np.asarray(self._constants[node.input(2)], np.float64)
        token = self.of_token(labels)
        if node.attribute("axis", -1) not in (-1, labels.ndim) or token is None:
            raise NotNative(what(node))
        plain = np.array_equal(token.values(np.arange(depth))[:, 0], np.arange(depth))
        self._count_ids(node, depth)

        def values(ids: Array) -> Array:
            index = token.values(ids).astype(np.int64)
            found: Array = np.where(index % depth == np.arange(depth), on, off).astype(np.float32)
            return found

        vector = TokenVector(depth, values, one_hot=plain and off == 0 and on == 1, node=node)
        self.labels[node.outputs[0]] = self.spread(vector, self.rows_of(labels).ravel(), (*labels.shape, depth))

    def _count_ids(self, node: Node, count: int) -> None:
        if self.ids not in (0, count):
            raise NotNative(f"{what(node)} takes {count} ids where another takes {self.ids}")
        self.ids = count

    def mat_mul(self, node: Node) -> None:
        """A product with constant weights on the right."""
        if node.input(0) in self.labels and node.input(1) in self.labels:
            raise NotNative(f"{what(node)}, a product of two computed tensors, as in attention")
        if node.input(0) not in self.labels:
            raise NotNative(f"{what(node)}, whose weights are not on the right")
        weights = self._weights(node, 1)
        self._product(node, weights.T, np.zeros(weights.shape[1]))

    def gemm(self, node: Node) -> None:
        """A product with constant weights and a bias, or with something else added."""
        a, b, added = (*node.inputs, "")[:3]
        if a not in self.labels or b in self.labels or node.attribute("transA", 0):
            raise NotNative(f"{what(node)}, whose weights are no constants")
        weights = self._weights(node, 1)
        weights = weights if node.attribute("transB", 0) else weights.T
        alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
        self._product(node, weights if alpha == 1 else weights * np.float32(alpha), np.zeros(len(weights)))
        if added:
            labels = self.labels[node.outputs[0]]
            x, rows = self.vector(node, labels)
            y = self._operand(node, added, labels.shape, rows)
            parts, bias = ([(None, x)], y * beta) if isinstance(y, np.ndarray) else ([(None, x), (np.full(x.size, beta), y)], np.zeros(x.size))  # fmt: skip
            self.labels[node.outputs[0]] = self.spread(combined(parts, bias, node), rows, labels.shape)

    def _product(self, node: Node, weights: Array, bias: Array) -> None:
        labels = self.labels[node.input(0)]
        x, rows = self.vector(node, labels)
        if x.size != weights.shape[1]:
            raise NotNative(f"{what(node)} does not multiply whole rows")
        shape = (*labels.shape[:-1], len(weights))
        self.labels[node.outputs[0]] = self.spread(product(weights, x, bias, node), rows, shape)

    # -- operators on each number ------------------------------------------------------------------------

    def _operand(self, node: Node, name: str, shape: tuple[int, ...], rows: Array) -> Operand:
        """An input that was broadcast to a shape: a vector of the rows, or a constant, float64 [size], that all rows have.

        Raises:
            NotNative: it is of other rows, or another constant for each of them.
        """
        if name in self.labels:
            vector, own = self.vector(node, np.broadcast_to(self.labels[name], shape))
            if not np.array_equal(rows, own):
                raise NotNative(f"{what(node)} combines one row with another")
            return vector
        flat = np.broadcast_to(np.asarray(self._constants[name], np.float64), shape).reshape(-1, shape[-1])
        if (flat != flat[:1]).any():
            raise NotNative(f"{what(node)}, whose constant {name} differs from row to row")
        constant: Array = flat[0]
        return constant

    def elementwise(self, node: Node) -> None:
        """A function of each number of one or two vectors, or of a vector and a constant."""
        names = [name for name in node.inputs if name]
        arrays = {n: self.labels[n] if n in self.labels else np.asarray(self._constants[n]) for n in names}
        shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
        first = next(n for n in names if n in self.labels)
        _, rows = self.vector(node, np.broadcast_to(self.labels[first], shape))
        operands = [self._operand(node, name, shape, rows) for name in names]
        result = ELEMENTWISE[node.op](node, *operands)
        self.labels[node.outputs[0]] = self.spread(result, rows, shape)

    def where(self, node: Node) -> None:
        """A choice that is the same at every step, or among tensors that only move."""
        condition, *ways = node.inputs
        if condition in self.labels:
            raise NotNative(f"{what(node)} chooses by what is computed")
        shape = np.broadcast_shapes(*(self.labels.get(n, self._constants.get(n, np.zeros(()))).shape for n in node.inputs))  # fmt: skip
        chosen = np.broadcast_to(np.asarray(self._constants[condition], bool), shape)
        taken = [way for way, mask in zip(ways, (chosen, ~chosen), strict=True) if mask.any()]
        if any(way not in self.labels for way in taken):
            raise NotNative(f"{what(node)} mixes constants with what is computed")
        labels = [np.broadcast_to(self.labels.get(way, np.zeros((), np.int64)), shape) for way in ways]
        self.labels[node.outputs[0]] = np.where(chosen, *labels)

    def recurrent(self, node: Node) -> None:
        """An LSTM, GRU or RNN layer."""
        if reason := why_not_plain(self._graph, node):
            raise NotNative(f"{what(node)} has {reason}")
        layer = read_layer(self._graph, node)
        if layer is None or layer.R.dtype != np.float32 or layer.W.dtype != np.float32:
            raise NotNative(f"{what(node)}, whose weights are no float32 constants")
        x, rows = self.vector(node, self.labels[node.input(0)])
        if not np.array_equal(rows, np.arange(ROWS)) or x.size != layer.W.shape[1]:
            raise NotNative(f"{what(node)} reads rows in another order")
        states = []
        for slot, _ in STATE_SLOTS[node.op].values():
            if node.input(slot) not in self.labels:
                raise NotNative(f"{what(node)} starts from a constant")
            state, rows = self.vector(node, self.labels[node.input(slot)])
            if not isinstance(state, Source) or state.kind != "state" or not np.array_equal(rows, np.arange(ROWS)):
                raise NotNative(f"{what(node)} reads a state in another order")
            states.append(state)
        h = Source(layer.hidden, "h", node.label, node=node)
        after = [h, Source(layer.hidden, "c", node.label, node=node)] if node.op == "LSTM" else [h]
        self.layers.append(OperatorLayer(layer, x, states, after))
        labels = [self.labelled(v) for v in (h, *after)]
        for name, own, shape in zip((*node.outputs, "", "")[:3], labels, ((1, 1), (1,), (1,)), strict=False):
            if name:
                self.labels[name] = own.reshape(*shape, ROWS, layer.hidden)

    def _weights(self, node: Node, slot: int) -> Array:
        value = self._constants[node.input(slot)]
        if value.ndim != 2 or value.dtype != np.float32:
            raise NotNative(f"{what(node)}, whose weights are {value.dtype} of rank {value.ndim}")
        return value


_OPERATORS: dict[str, Callable[[Reader, Node], None]] = {
    "Gather": Reader.gather,
    "OneHot": Reader.one_hot,
    "MatMul": Reader.mat_mul,
    "Gemm": Reader.gemm,
    "Where": Reader.where,
    "LSTM": Reader.recurrent,
    "GRU": Reader.recurrent,
    "RNN": Reader.recurrent,
    **dict.fromkeys(ELEMENTWISE, Reader.elementwise),
}
