"""Reads a step graph as a plain recurrent network: embedding, recurrent layers, linear output. Or says what is in the way.

Each tensor that depends on tokens, states or contexts is followed number by number through one step of a few rows.
Each number has a label: which vector it is part of, its row, and its place there. Operators that only re-arrange
numbers move the labels. So a graph is understood exactly or not at all: the refusal names the operator that
is not understood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from decoding.kernels.native_layers import NativeArrays, NativeLayer
from decoding.model.contract.contract import Contract
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, Array
from decoding.model.native.cell import NotNative, native_layer, what
from decoding.model.native.labels import BITS, ROWS, Labels
from decoding.model.native.vectors import TOKEN, Vector, equal, over, times
from decoding.model.native.views import VIEWS
from decoding.model.passes.recurrent_cells import Layer, read_layer, why_not_plain
from decoding.model.runtime.native import NativePlan, NativeState
from decoding.model.runtime.session import Session


@dataclass
class _Read:
    """A layer as it was read: what enters it, and where its states come from."""

    layer: Layer
    native: NativeLayer
    entry: Vector  # what the native layer reads, before its input weights
    states: list[tuple[str, int]] = field(default_factory=list)


def native_plan(graph: Graph, contract: Contract) -> NativePlan:
    """The network that a step graph computes.

    Raises:
        NotNative: it is none of those that the native step runs; the message names the first operator in the way.
    """
    if contract.window is not None:
        raise NotNative("it runs whole windows, no steps")
    plan = _Reader(graph, contract).plan()
    if contract.attention is not None:
        raise NotNative(f"the attention {contract.attention}, which nothing but onnxruntime computes")
    return plan


class _Reader(Labels):
    def __init__(self, graph: Graph, contract: Contract) -> None:
        super().__init__()
        self._graph, self._contract = graph, contract
        self._layers: list[_Read] = []
        self._contexts: list[str] = []
        self._constants: dict[str, Array] = {}
        self._ids = 0

    def plan(self) -> NativePlan:
        """Follow all operators, then put together what was found."""
        graph, c = self._graph, self._contract
        self._inputs()
        wanted = [c.logits.name, *(s.output for s in c.states)]
        needed = graph.ancestors(*wanted)
        nodes = [n for n in graph.nodes if needed.intersection(n.outputs)]
        followed = [n for n in nodes if self._depends(n)]
        self._find_constants([n for n in followed if n.op in _OPERATORS or n.op in VIEWS])
        for node in followed:
            self._follow(node)
        if not self._layers:
            raise NotNative("no LSTM, GRU or RNN layer")
        return self._assembled()

    # -- inputs and constants ---------------------------------------------------------------------------

    def _inputs(self) -> None:
        c = self._contract
        self.labels[c.token.name] = self.new(Vector(1, "ids"))[:, 0].reshape(c.token.shape(ROWS))
        for state in c.states:
            if state.dtype != np.float32:
                raise NotNative(f"the state {state.input} is {state.dtype}")
            if state.free_axis is not None:
                raise NotNative(f"the state {state.input}, which has no fixed size")
            labels = self.new(Vector(state.initial.size, "state", state.input))
            shape = np.moveaxis(np.empty(state.shape(ROWS)), state.batch_axis, 0).shape
            self.labels[state.input] = np.moveaxis(labels.reshape(shape), 0, state.batch_axis)
        for aux in c.auxiliary_inputs:
            if (
                aux.kind in ("context", "latent")
                and not aux.timed
                and None not in aux.sizes
                and aux.dtype == np.float32
            ):
                size = math.prod(size or 0 for size in aux.sizes)
                labels = self.new(Vector(size, known={("context", aux.name): None}))
                self.labels[aux.name] = labels.reshape(ROWS, *(size or 0 for size in aux.sizes))
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
            found = Session(part, threads=1).run({n: v for n, v in feeds.items() if n in wanted}, list(computed))
            self._constants |= dict(zip(computed, found, strict=True))

    # -- operators ---------------------------------------------------------------------------------------

    def _follow(self, node: Node) -> None:
        for name in node.inputs:
            if name in self.labels and not self.labels[name].size:
                aux = next((a for a in self._contract.auxiliary_inputs if a.name == name), None)
                raise NotNative(f"{what(node)} reads {name}" + (f", a {aux.kind}" if aux is not None else ""))
        if node.op in VIEWS:
            values = [self.labels.get(name, self._constants.get(name)) if name else None for name in node.inputs]
            labelled = [name in self.labels for name in node.inputs]
            if node.op == "Concat" and any(labelled):
                self._label_constants(node, values, labelled)
            moved = VIEWS[node.op](node, values, labelled)
            if moved is None:
                raise NotNative(f"{what(node)} mixes constants with what is computed")
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
        rows = (beside[..., 0] >> BITS) % ROWS
        for i, value in enumerate(values):
            if labelled[i] or value is None or value.shape[:-1] != rows.shape:
                continue
            flat = value.reshape(-1, value.shape[-1])
            if (flat == flat[:1]).all():
                labels = self.new(Vector(flat.shape[1], known={}, constant=flat[0].astype(np.float64)))
                values[i], labelled[i] = labels[rows.ravel()].reshape(value.shape), True

    def gather(self, node: Node) -> None:
        """An embedding, or a choice among positions."""
        if node.input(0) in self.labels:
            if node.input(1) in self.labels:
                raise NotNative(what(node))
            index = np.asarray(self._constants[node.input(1)])
            self.labels[node.outputs[0]] = np.take(self.labels[node.input(0)], index, node.attribute("axis", 0))
            return
        table, ids = self._weights(node, 0), self.labels[node.input(1)]
        if node.attribute("axis", 0) != 0 or self.whose(ids).kind != "ids":
            raise NotNative(what(node))
        self._token_vector(node, table.T, ids, len(table))

    def one_hot(self, node: Node) -> None:
        """Ids as vectors."""
        ids, depth = self.labels[node.input(0)], int(np.asarray(self._constants[node.input(1)]).reshape(-1)[0])
        off, on = np.asarray(self._constants[node.input(2)], np.float64)
        if node.attribute("axis", -1) not in (-1, ids.ndim) or self.whose(ids).kind != "ids":
            raise NotNative(what(node))
        plain = off == 0 and on == 1
        matrix = None if plain else (np.eye(depth) * (on - off) + off).astype(np.float32)
        self._token_vector(node, matrix, ids, depth)

    def _token_vector(self, node: Node, matrix: Array | None, ids: Array, count: int) -> None:
        if self._ids not in (0, count):
            raise NotNative(f"{what(node)} takes {count} ids where another takes {self._ids}")
        self._ids = count
        vector = Vector(count if matrix is None else len(matrix), known={TOKEN: matrix})
        labels = self.new(vector)[(ids.ravel() >> BITS) % ROWS]
        self.labels[node.outputs[0]] = labels.reshape(*ids.shape, vector.size)

    def mat_mul(self, node: Node) -> None:
        """A product with constant weights on the right."""
        if node.input(0) not in self.labels or node.input(1) in self.labels:
            raise NotNative(f"{what(node)}, whose weights are not on the right or no constants")
        weights = self._weights(node, 1)
        self._product(node, weights.T, np.zeros(weights.shape[1]))

    def gemm(self, node: Node) -> None:
        """A product with constant weights and a bias."""
        a, b, bias = (*node.inputs, "")[:3]
        if a not in self.labels or b in self.labels or bias in self.labels or node.attribute("transA", 0):
            raise NotNative(f"{what(node)}, whose weights are no constants")
        weights = self._weights(node, 1)
        weights = weights if node.attribute("transB", 0) else weights.T
        added = np.asarray(self._constants[bias], np.float64) * node.attribute("beta", 1.0) if bias else np.zeros(1)
        if added.size not in (1, len(weights)):
            raise NotNative(f"{what(node)}, whose third input is no vector")
        alpha = node.attribute("alpha", 1.0)
        self._product(
            node, weights if alpha == 1 else weights * np.float32(alpha), added.ravel() + np.zeros(len(weights))
        )

    def _product(self, node: Node, weights: Array, bias: Array) -> None:
        x, rows = self.vector(node, node.input(0))
        if x.size != weights.shape[1]:
            raise NotNative(f"{what(node)} does not multiply whole rows")
        shape = (*self.labels[node.input(0)].shape[:-1], len(weights))
        self.labels[node.outputs[0]] = self.new(Vector(len(weights), product=(x, weights, bias)))[rows].reshape(shape)

    def add(self, node: Node) -> None:
        """A bias, or a residual connection."""
        left, right = (self.labels.get(node.input(k)) for k in (0, 1))
        if left is None or right is None:
            self._with_constant(node)
            return
        if left.shape != right.shape or node.op != "Add":
            raise NotNative(what(node))
        (a, rows), (b, others) = (self.vector(node, node.input(k)) for k in (0, 1))
        if not np.array_equal(rows, others):
            raise NotNative(f"{what(node)} adds one row to another")
        terms = dict(a.terms)
        for source, matrix in b.terms.items():
            if source in terms:
                raise NotNative(f"{what(node)} adds what comes from one source twice")
            terms[source] = matrix
        total = Vector(a.size, known=terms, constant=a.bias + b.bias)
        self.labels[node.outputs[0]] = self.new(total)[rows].reshape(left.shape)

    def _with_constant(self, node: Node) -> None:
        """Add, Sub, Mul or Div with a constant vector or number."""
        side = 0 if node.input(0) in self.labels else 1
        labels, value = self.labels[node.input(side)], np.asarray(self._constants[node.input(1 - side)], np.float64)
        x, rows = self.vector(node, node.input(side))
        if value.size not in (1, x.size) or value.ndim > labels.ndim or (side == 1 and node.op in ("Sub", "Div")):
            raise NotNative(what(node))
        if value.size > 1 and value.shape[-1] != x.size:
            raise NotNative(what(node))
        value = value.ravel() + np.zeros(x.size)
        scale = {"Mul": value, "Div": 1 / value if node.op == "Div" else value}.get(node.op)
        inner, weights, bias = x.product or (x, None, x.bias)
        if scale is not None:
            bias = bias * scale
            weights = (np.eye(x.size) if weights is None else weights) * scale[:, None]
        else:
            bias = bias + (value if node.op == "Add" else -value)
        if weights is None:
            result = Vector(x.size, known=x.terms, constant=bias)
        else:
            result = Vector(x.size, product=(inner, weights.astype(np.float32, copy=False), bias))
        self.labels[node.outputs[0]] = self.new(result)[rows].reshape(labels.shape)

    def recurrent(self, node: Node) -> None:
        """An LSTM, GRU or RNN layer."""
        if reason := why_not_plain(self._graph, node):
            raise NotNative(f"{what(node)} has {reason}")
        layer = read_layer(self._graph, node)
        if layer is None or layer.R.dtype != np.float32 or layer.W.dtype != np.float32:
            raise NotNative(f"{what(node)}, whose weights are no float32 constants")
        x, rows = self.vector(node, node.input(0))
        if not np.array_equal(rows, np.arange(ROWS)) or x.size != layer.W.shape[1]:
            raise NotNative(f"{what(node)} reads rows in another order")
        number = len(self._layers)
        read = self._entered(node, layer, x)
        for slot, _ in STATE_SLOTS[node.op].values():
            labels = self.labels.get(node.input(slot))
            if labels is None:
                raise NotNative(f"{what(node)} starts from a constant")
            vectors, rows, places = self.parts(node, labels)
            state = self.vectors[vectors[0]]
            together = np.array_equal(places, np.arange(places[0], places[0] + layer.hidden))
            if (
                state.kind != "state"
                or len(set(vectors.tolist())) > 1
                or not together
                or not np.array_equal(rows, np.arange(ROWS))
            ):
                raise NotNative(f"{what(node)} reads a state in another order")
            self._check_together(state.of, int(places[0]), layer.hidden)
            read.states.append((state.of, int(places[0])))
        self._layers.append(read)
        h = self.new(Vector(layer.hidden, known={("layer", number): None}))
        c = self.new(Vector(layer.hidden, "c", number)) if node.op == "LSTM" else h
        for name, labels, shape in zip((*node.outputs, "", "")[:3], (h, h, c), ((1, 1), (1,), (1,)), strict=True):
            if name:
                self.labels[name] = labels.reshape(*shape, ROWS, layer.hidden)

    # -- layers -------------------------------------------------------------------------------------------

    def _entered(self, node: Node, layer: Layer, x: Vector) -> _Read:
        """The layer with its input weights over what the native step feeds it."""
        number = len(self._layers)
        weights, terms = layer.W, x.terms
        offset = weights.astype(np.float64) @ x.bias
        if number:
            weights, entry = self._over_top(node, weights, x)
        else:
            for source in terms:
                if source[0] == "context":
                    self._contexts.append(source[1])
            if TOKEN not in terms or any(source[0] not in ("token", "context") for source in terms):
                raise NotNative(f"{what(node)}, the first layer, does not read the token")
            matrix = terms[TOKEN]
            # The first column answers for nearly all embeddings, in a thousandth of the time.
            if matrix is not None and not matrix[:, 0].all() and not (own := matrix.any(axis=1)).all():
                weights, matrix = weights[:, own], matrix[own]
            entry = Vector(weights.shape[1], known={TOKEN: matrix})
            self._context_weights = [over(layer.W, terms["context", name]) for name in self._contexts]
            self._rest = len(terms) > 1 or bool(x.bias.any())
        return _Read(layer, native_layer(layer, weights, offset), entry)

    def _over_top(self, node: Node, weights: Array, x: Vector) -> tuple[Array, Vector]:
        """Weights over x as weights over what the last layer gives: its h, or h plus what entered it."""
        last = len(self._layers) - 1
        source = ("layer", last)
        inner, outer = x, weights
        if x.product is not None and len(x.terms) > 1:
            inner, outer = x.product[0], times(weights, x.product[1])
        if set(inner.terms) == {source}:
            return over(outer, inner.terms[source]), Vector(self._layers[last].native.hidden, known={source: None})
        below = self._layers[last].entry
        expected = {source: None, **below.terms}
        same = set(inner.terms) == set(expected) and all(equal(inner.terms[s], m) for s, m in expected.items())
        if not same or below.size != inner.size or (last == 0 and self._rest):
            raise NotNative(f"{what(node)} reads more than the layer before it")
        self._layers[last].native = replace(self._layers[last].native, residual=True)
        return outer, Vector(inner.size, known=inner.terms)

    # -- the end -----------------------------------------------------------------------------------------

    def _assembled(self) -> NativePlan:
        graph, c = self._graph, self._contract
        maker = graph.producer(c.logits.name)
        if maker is None or not self.labels[c.logits.name].size:
            raise NotNative("the logits are not computed from the token")
        labels = self.labels[c.logits.name]
        if labels.shape != c.logits.shape(ROWS):
            raise NotNative(f"{what(maker)} gives logits of shape {list(labels.shape)}")
        axes = [c.logits.layout.index(axis) for axis in ("BV" if c.logits.layout == "BV" else "BTV")]
        logits, rows = self.vector_of(maker, np.ascontiguousarray(labels.transpose(axes)))
        if not np.array_equal(rows, np.arange(ROWS)):
            raise NotNative(f"{what(maker)} gives the logits of rows in another order")
        x, weights, bias = logits.product or (logits, np.eye(logits.size, dtype=np.float32), np.zeros(logits.size))
        offset = bias + (weights.astype(np.float64) @ x.bias if x.bias.any() else 0)
        weights, _ = self._over_top(maker, weights, x)
        self._check_states()
        first = self._layers[0].entry.terms[TOKEN]
        arrays = NativeArrays(
            self._ids,
            None if first is None else first.T,
            [read.native for read in self._layers],
            weights,
            offset,
            self._context_weights,
        )
        if first is None and self._layers[0].native.residual:
            raise NotNative(f"{what(self._layers[0].layer.node)}: a residual connection over one-hot vectors")
        states = {s.input: s for s in c.states}
        where = [
            [NativeState(name, states[name].output, states[name].batch_axis, place) for name, place in read.states]
            for read in self._layers
        ]
        pairs = [(own[0], own[1] if len(own) > 1 else None) for own in where]
        token, out = (c.token.name, c.token.layout), (c.logits.name, c.logits.layout)
        return NativePlan(graph.name, arrays, token, out, pairs, self._contexts)

    def _check_together(self, name: str, place: int, hidden: int) -> None:
        """A row's numbers of one layer must lie side by side, so that the kernels can work on them where they are."""
        state = next(s for s in self._contract.states if s.input == name)
        inner = int(np.prod(state.initial.shape[state.batch_axis + 1 :]))
        if place % inner + hidden > inner:
            raise NotNative(f"the state {name}, whose batch axis comes after its numbers")

    def _check_states(self) -> None:
        """Each layer's next state must stand where its state stood, and no number may be left over."""
        covered = {s.input: np.zeros(s.initial.size, bool) for s in self._contract.states}
        for number, read in enumerate(self._layers):
            for part, (name, place) in enumerate(read.states):
                state = next(s for s in self._contract.states if s.input == name)
                labels = self.labels.get(state.output)
                hidden = read.native.hidden
                if labels is None or labels.shape != state.shape(ROWS) or covered[name][place : place + hidden].any():
                    raise NotNative(f"the state {state.output} has another shape than {name}")
                covered[name][place : place + hidden] = True
                own = np.moveaxis(labels, state.batch_axis, 0).reshape(ROWS, -1)[:, place : place + hidden]
                vector = self.vectors[int(own[0, 0] >> BITS) // ROWS]
                right = vector.of == number if part else vector.known == {("layer", number): None}
                if (
                    not right
                    or vector.kind != ("c" if part else "linear")
                    or not np.array_equal(own, self.labelled(vector))
                ):
                    raise NotNative(f"the state {state.output} is not what the layer of {name} gives")
        if not all(mask.all() for mask in covered.values()):
            raise NotNative("a state that no layer reads")

    def _weights(self, node: Node, slot: int) -> Array:
        value = self._constants[node.input(slot)]
        if value.ndim != 2 or value.dtype != np.float32:
            raise NotNative(f"{what(node)}, whose weights are {value.dtype} of rank {value.ndim}")
        return value


_OPERATORS: dict[str, Callable[[_Reader, Node], None]] = {
    "Gather": _Reader.gather,
    "OneHot": _Reader.one_hot,
    "MatMul": _Reader.mat_mul,
    "Gemm": _Reader.gemm,
    "Add": _Reader.add,
    "Sub": _Reader.add,
    "Mul": _Reader.add,
    "Div": _Reader.add,
    "LSTM": _Reader.recurrent,
    "GRU": _Reader.recurrent,
    "RNN": _Reader.recurrent,
}
