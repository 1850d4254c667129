"""Random recurrent cells whose states lie in random layouts, each with a NumPy loop over single rows that says what is right.

A cell's state of one row has one or two axes, and its operators mix them, so that a wrong layout gives wrong numbers. In
the file the batch stands anywhere among these axes, between axes of size 1, and states of one shape may be stacked along
an axis of layers. Sizes equal the batches that `load()` probes with, or the number of layers. Many operators take any
size, so that wrong layouts run. One file in eight mixes the rows of a batch and must be refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCAB, WIDTH = 6, 4
SIZES = (1, 1, 2, 2, 3, 4, 5, 5, 7)
TOKENS = ("B", "B1", "1B", "BT", "TB")


@dataclass
class State:
    """One state of the cell.

    Attributes:
        core: its sizes for one row, without axes of size 1.
        ops: what a step does to it, in order.
    """

    core: tuple[int, ...]
    ops: list[tuple[Any, ...]]
    head: str


@dataclass
class Storage:
    """How the file holds states: their places in `cell.states`, and its axes: "B", "L" (layers), "1" or a core axis."""

    states: list[int]
    axes: list[Any]


@dataclass
class Cell:
    """A file and its truth."""

    proto: onnx.ModelProto
    states: list[State]
    weights: dict[str, np.ndarray]
    notes: str
    mixes_rows: bool
    plain: bool
    roles: dict[str, Any] = field(default_factory=dict)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Logits [T, V] of one row, from states of zero, in float64."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        states = [np.zeros(state.core) for state in self.states]
        rows = []
        for token in ids:
            x = w["table"][token]
            total = x @ w["skip"]
            for i, state in enumerate(self.states):
                s = states[i]
                for n, op in enumerate(state.ops):
                    s = _numpy(s, op, x, w, f"s{i}_{n}")
                states[i] = s
                total = total + _numpy_head(s, state.head, w, f"s{i}_head")
            rows.append(total)
        return np.stack(rows)


def _numpy(s: np.ndarray, op: tuple[Any, ...], x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    match op:
        case ("roll", axis):
            return np.roll(s, -1, axis)
        case ("mean", axis):
            return s + s.mean(axis, keepdims=True)
        case ("cumsum", axis):
            return np.cumsum(s, axis)
        case ("softmax", axis):
            e = np.exp(s - s.max(axis, keepdims=True))
            return e / e.sum(axis, keepdims=True)
        case ("vector", axis):
            return s * w[name].reshape([-1 if i == axis else 1 for i in range(s.ndim)])
        case ("matrix", axis):
            return np.moveaxis(np.tensordot(s, w[name], (axis, 0)), -1, axis)
        case ("tanh",):
            return np.tanh(s)
        case ("add", "number"):
            return s + x[0]
        case ("add", "all"):
            return s + (x @ w[name]).reshape(s.shape)
    raise ValueError(op)


def _numpy_head(s: np.ndarray, head: str, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    if head == "matrix":
        return s.reshape(-1) @ w[name]
    return (s.sum() if head == "sum" else s.reshape(-1)[0]) * w[name][0]


def cell(seed: int, number: int) -> Cell:
    """One case."""
    return _Maker(np.random.default_rng((seed, number, 7))).make()


class _Maker:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.count = 0

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    # -- what the cell computes -------------------------------------------------------------------------------

    def make(self) -> Cell:
        states = self._states()
        groups = self._storages(states)
        form = self.pick(TOKENS)
        sequence = form in ("BT", "TB")
        declared = self.pick(("named", "named", "anonymous", "fixed", "fixed", "states fixed", "token fixed"))
        batch = int(self.pick((1, 1, 1, 2, 3, 5)))
        baked = "fixed" in declared and self.chance(0.5)
        self.baked = batch if baked else None
        mixed = int(self.rng.integers(len(states))) if self.chance(0.125) else None
        self.weights = {"table": self._numbers(VOCAB, WIDTH), "skip": self._numbers(WIDTH, VOCAB)}
        for i, state in enumerate(states):
            self._weights_of(i, state)

        before = [self._read(f"in{g}", storage, states) for g, storage in enumerate(groups)]
        values = {i: name for names in before for i, name in names.items()}
        squeeze = self.pick(("squeeze", "gather", "reshape"))
        out = self.pick(("BV", "B1V", "1BV"))
        if sequence:
            logits, after = self._scan(states, values, form, mixed)
        else:
            x = self._embedded(form, squeeze)
            logits, after = self._step(states, values, x, mixed)
            logits = logits if out == "BV" else self.node("Unsqueeze", logits, self.constant([out.index("1")]))
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        for g, storage in enumerate(groups):
            self._write(f"out{g}", storage, after)
        return self._cell(states, groups, form, declared, batch, out if not sequence else f"{form}V", mixed)

    def _states(self) -> list[State]:
        states: list[State] = []
        for _ in range(self.rng.integers(1, 4)):
            core = (
                states[-1].core
                if states and self.chance(0.5)
                else tuple(int(self.pick(SIZES)) for _ in range(self.rng.integers(1, 3)))
            )
            axes = range(len(core))
            ops: list[tuple[Any, ...]] = [("add", self.pick(("number", "all")))]
            for _ in range(self.rng.integers(1, 4)):
                ops.append((self.pick(("roll", "mean", "cumsum", "softmax", "vector", "matrix")), int(self.pick(axes))))
            self.rng.shuffle(ops)  # type: ignore[arg-type]
            states.append(State(core, [tuple(op) for op in ops] + [("tanh",)], self.pick(("matrix", "sum", "first"))))
        return states

    def _storages(self, states: list[State]) -> list[Storage]:
        """States of one shape stacked or apart, with their axes in a random order."""
        groups: list[Storage] = []
        for i, state in enumerate(states):
            if groups and i and states[groups[-1].states[0]].core == state.core and self.chance(0.7):
                groups[-1].states.append(i)
                continue
            groups.append(Storage([i], []))
        for group in groups:
            core = states[group.states[0]].core
            axes: list[Any] = ["B", *range(len(core))]
            if len(group.states) > 1 or self.chance(0.3):
                axes.append("L")
            if self.chance(0.2):
                axes.append("1")
            order = self.rng.permutation(len(axes)) if self.chance(0.7) else range(len(axes))
            group.axes = [axes[k] for k in order]
        return groups

    def _weights_of(self, i: int, state: State) -> None:
        size = int(np.prod(state.core))
        for n, op in enumerate(state.ops):
            name = f"s{i}_{n}"
            if op[0] == "vector":
                self.weights[name] = self._numbers(state.core[op[1]])
            elif op[0] == "matrix":
                self.weights[name] = self._numbers(state.core[op[1]], state.core[op[1]])
            elif op == ("add", "all"):
                self.weights[name] = self._numbers(WIDTH, size)
        self.weights[f"s{i}_head"] = self._numbers(size if state.head == "matrix" else 1, VOCAB)

    def _numbers(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(-1.5, 1.5, shape).astype(np.float32)

    # -- the graph --------------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        name = f"t{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        self.count += 1
        name = f"c{self.count}"
        self.constants[name] = np.asarray(value, np.int64)
        return name

    def _reshape(self, name: str, sizes: list[int]) -> str:
        """To [batch, *sizes], the batch baked where the export bakes it."""
        return self.node("Reshape", name, self.constant([self.baked or -1, *sizes]))

    def _read(self, name: str, storage: Storage, states: list[State]) -> dict[int, str]:
        """Each state of a storage as [batch, *core]."""
        core = states[storage.states[0]].core
        found = {}
        for layer, i in enumerate(storage.states):
            value, axes = name, list(storage.axes)
            if "L" in axes:
                value = self.node("Gather", value, self.constant(layer), axis=axes.index("L"))
                axes.remove("L")
            perm = [
                axes.index("B"),
                *(axes.index(k) for k in range(len(core))),
                *(k for k, a in enumerate(axes) if a == "1"),
            ]
            moved = [k for k in perm if axes[k] not in ("B", "1") or self.baked != 1]
            if self.baked == 1 and moved == sorted(moved) and self.chance(0.7):
                found[i] = self._reshape(value, list(core))  # as exporters write a Transpose of sizes of 1
                continue
            if perm != sorted(perm):
                value = self.node("Transpose", value, perm=perm)
            if "1" in axes:
                value = (
                    self._reshape(value, list(core))
                    if self.chance(0.5)
                    else self.node("Squeeze", value, self.constant([len(core) + 1]))
                )
            found[i] = value
        return found

    def _write(self, name: str, storage: Storage, after: dict[int, str]) -> None:
        axes = [a for a in storage.axes if a != "L"]
        values = []
        for i in storage.states:
            value = after[i]
            here: list[Any] = ["B", *(k for k in axes if isinstance(k, int))]
            here = ["B", *range(sum(isinstance(k, int) for k in axes))]
            if "1" in axes:
                value, here = self.node("Unsqueeze", value, self.constant([len(here)])), [*here, "1"]
            perm = [here.index(a) for a in axes]
            value = self.node("Transpose", value, perm=perm) if perm != sorted(perm) else value
            if "L" in storage.axes:
                value = self.node("Unsqueeze", value, self.constant([storage.axes.index("L")]))
            values.append(value)
        if len(values) > 1:
            values = [self.node("Concat", *values, axis=storage.axes.index("L"))]
        self.nodes.append(helper.make_node("Identity", values, [name]))

    def _embedded(self, form: str, how: str) -> str:
        x = self.node("Gather", "table", "ids")
        if form == "B":
            return x
        axis = form.index("1")
        if how == "reshape" and axis == 1:
            return self._reshape(x, [WIDTH])
        if how == "gather":
            return self.node("Gather", x, self.constant(0), axis=axis)
        return self.node("Squeeze", x, self.constant([axis]))

    def _step(
        self, states: list[State], values: dict[int, str], x: str, mixed: int | None
    ) -> tuple[str, dict[int, str]]:
        total, after = self.node("MatMul", x, "skip"), {}
        for i, state in enumerate(states):
            s = values[i]
            if i == mixed:  # as BatchNorm in training mode does
                s = self.node("Add", s, self.node("ReduceMean", s, self.constant([0]), keepdims=1))
            for n, op in enumerate(state.ops):
                s = self._op(s, op, x, state.core, f"s{i}_{n}")
            after[i] = s
            total = self.node("Add", total, self._head(s, state, f"s{i}_head"))
        return total, after

    def _op(self, s: str, op: tuple[Any, ...], x: str, core: tuple[int, ...], name: str) -> str:
        rank = len(core)
        match op:
            case ("roll", axis):
                first = self.node("Slice", s, self.constant([0]), self.constant([1]), self.constant([axis + 1]))
                rest = self.node("Slice", s, self.constant([1]), self.constant([1 << 30]), self.constant([axis + 1]))
                return self.node("Concat", rest, first, axis=axis + 1)
            case ("mean", axis):
                return self.node("Add", s, self.node("ReduceMean", s, self.constant([axis + 1]), keepdims=1))
            case ("cumsum", axis):
                return self.node("CumSum", s, self.constant(axis + 1))
            case ("softmax", axis):
                return self.node("Softmax", s, axis=axis + 1)
            case ("vector", axis):
                shape = [-1 if i == axis else 1 for i in range(rank)]
                return self.node("Mul", s, self.node("Reshape", name, self.constant(shape)))
            case ("matrix", axis) if axis == rank - 1:
                return self.node("MatMul", s, name)
            case ("matrix", _):
                return self.node("MatMul", self.node("Transpose", name, perm=[1, 0]), s)
            case ("tanh",):
                return self.node("Tanh", s)
            case ("add", "number"):
                one = self.node("Slice", x, self.constant([0]), self.constant([1]), self.constant([1]))
                return self.node("Add", s, one if rank == 1 else self.node("Unsqueeze", one, self.constant([2])))
            case ("add", "all"):
                full = self.node("MatMul", x, name)
                return self.node("Add", s, full if rank == 1 else self._reshape(full, list(core)))
        raise ValueError(op)

    def _head(self, s: str, state: State, name: str) -> str:
        rank = len(state.core)
        if state.head == "sum":
            value = self.node("ReduceSum", s, self.constant(list(range(1, rank + 1))), keepdims=0)
            value = self.node("Unsqueeze", value, self.constant([1]))
        elif state.head == "first":
            value = s
            for axis in range(rank, 1, -1):
                value = self.node("Gather", value, self.constant(0), axis=axis)
            value = self.node("Slice", value, self.constant([0]), self.constant([1]), self.constant([1]))
        else:
            value = s if rank == 1 else self._reshape(s, [int(np.prod(state.core))])
        return self.node("MatMul", value, name)

    def _scan(
        self, states: list[State], values: dict[int, str], form: str, mixed: int | None
    ) -> tuple[str, dict[int, str]]:
        """The step in a Scan over the tokens."""
        x = self.node("Gather", "table", "ids")
        if form == "BT":
            x = self.node("Transpose", x, perm=[1, 0, 2])
        outer, self.nodes = self.nodes, []
        inner = {i: f"held{i}" for i in range(len(states))}
        scores, after = self._step(states, inner, "x_t", mixed)
        body = helper.make_graph(
            self.nodes,
            "body",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (*inner.values(), "x_t")],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (*after.values(), scores)],
        )
        self.nodes = outer
        finals = {i: f"final{i}" for i in inner}
        self.nodes.append(
            helper.make_node(
                "Scan", [*values.values(), x], [*finals.values(), "scores_tb"], body=body, num_scan_inputs=1
            )
        )
        logits = self.node("Transpose", "scores_tb", perm=[1, 0, 2]) if form == "BT" else "scores_tb"
        return logits, finals

    # -- the file ---------------------------------------------------------------------------------------------

    def _cell(
        self,
        states: list[State],
        groups: list[Storage],
        form: str,
        declared: str,
        batch: int,
        out: str,
        mixed: int | None,
    ) -> Cell:
        ones = {"named": "batch", "anonymous": None, "states fixed": "batch", "token fixed": batch, "fixed": batch}
        rows: Any = ones[declared]
        time: Any = int(self.pick((1, 4))) if declared == "fixed" else "time"
        token = [{"B": rows, "1": 1, "T": time}[a] for a in form]
        if declared == "token fixed":
            rows = "batch"
        elif declared == "states fixed":
            rows = batch
        inputs, outputs = [("ids", TensorProto.INT64, token)], [("logits", TensorProto.FLOAT, [None] * len(out))]
        for g, storage in enumerate(groups):
            core = states[storage.states[0]].core
            sizes = {"B": rows, "L": len(storage.states), "1": 1, **dict(enumerate(core))}
            shape = [sizes[a] for a in storage.axes]
            inputs.append((f"in{g}", TensorProto.FLOAT, shape))
            outputs.append((f"out{g}", TensorProto.FLOAT, shape))
        graph = helper.make_graph(
            self.nodes,
            "cell",
            [helper.make_tensor_value_info(*port) for port in inputs],
            [helper.make_tensor_value_info(*port) for port in outputs],
            [numpy_helper.from_array(v, n) for n, v in {**self.weights, **self.constants}.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        roles = {"state": {f"in{g}": f"out{g}" for g in range(len(groups))}}
        helper.set_model_props(proto, {"decoding.bos": "0", "decoding.roles": json.dumps(roles)})
        notes = (
            f"token {form} {token}, logits {out}, {declared}, batch {batch}, baked {self.baked}, mixed {mixed}, "
            + "; ".join(
                f"in{g} {storage.axes} of {[states[i].core for i in storage.states]}"
                for g, storage in enumerate(groups)
            )
        )
        return Cell(proto, states, self.weights, notes, mixed is not None, declared == "named" and mixed is None)


class WrongScores(Exception):
    """A file was loaded and gives other scores than its cell, or it was refused though nothing about it is in doubt."""


def check(case: Cell, verify: bool) -> Any:
    """Load a case, decode and score rows with it, compare with the cell, and return the model.

    Raises:
        WrongScores: they differ.
        DecodingError: it was refused.
    """
    from decoding import DecodingError, Greedy, decode, load, score

    try:
        model = load(case.proto, threads=1, verify=verify)
    except DecodingError as error:
        if case.plain:
            raise WrongScores(f"refused: {error}") from error
        raise
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, VOCAB, int(n)) for n in (6, 3, 6, 1, 4)]
    for ids, found in zip(rows, score(model, rows), strict=True):
        expected = _log_softmax(case.logits(np.concatenate([[0], ids])))[np.arange(len(ids)), ids]
        _compare("score()", found, expected)
    for prompt, best in zip(rows, decode(model, rows, Greedy(), max_new_tokens=4), strict=True):
        tokens = np.concatenate([prompt, best.ids])
        logits = case.logits(tokens)[len(prompt) - 1 : -1]
        _compare("decode()", logits[np.arange(len(best.ids)), best.ids], logits.max(-1))
    _check_run(model, case, rng)
    return model


def _check_run(model: Any, case: Cell, rng: np.random.Generator) -> None:
    """`Model.run()` of one step of three rows from the initial states."""
    ids = rng.integers(0, VOCAB, (3, 1))
    contract = model._network.contract
    token = ids[:, 0] if contract.token.layout == "B" else ids
    found = contract.logits.arrange(model.run({contract.token.name: token})[contract.logits.name])[:, 0]
    for row, scores in zip(ids, found, strict=True):
        _compare("Model.run()", scores, case.logits(row)[0])


def _compare(where: str, found: Any, expected: np.ndarray) -> None:
    found = np.asarray(found, np.float64)
    if found.shape != expected.shape or not np.abs(found - expected).max(initial=0) <= 2e-3 * (
        1 + np.abs(expected).max(initial=0)
    ):
        raise WrongScores(
            f"{where}: {np.round(found, 3).tolist()[:6]} where the cell gives {np.round(expected, 3).tolist()[:6]}"
        )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    shifted: np.ndarray = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return shifted
