"""Cells that are written as plain operators: recognised in every form, and refused where one operator is another."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import Greedy, ModelError, Sample, decode, load
from decoding.model.native.step import differences

HIDDEN, VOCAB, WIDE = 6, 9, 5


class Step:
    """Writes a graph of one step: token [batch], states h and c [batch, n]."""

    def __init__(self, seed=0):
        self.rng, self.nodes, self.weights, self.states = np.random.default_rng(seed), [], [], {}

    def __call__(self, op, *inputs, outputs=1, **attributes):
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape):
        return self.constant(self.rng.uniform(-0.6, 0.6, shape).astype(np.float32))

    def linear(self, x, size, outputs):
        return self("Gemm", x, self.weight(size, outputs), self.weight(outputs))

    def embedded(self):
        return self("Gather", self.weight(VOCAB, WIDE), "tokens")

    def state(self, name, size, after):
        self("Identity", after)
        self.nodes[-1].output[0] = f"{name}_next"
        self.states[name] = size

    def model(self, x, size):
        """The graph, with logits from x [batch, size]."""
        self.linear(x, size, VOCAB)
        self.nodes[-1].output[0] = "logits"
        kind = TensorProto.FLOAT
        ins = [helper.make_tensor_value_info(n, kind, ["batch", s]) for n, s in self.states.items()]
        outs = [helper.make_tensor_value_info(f"{n}_next", kind, ["batch", s]) for n, s in self.states.items()]
        graph = helper.make_graph(
            self.nodes,
            "step",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch"]), *ins],
            [helper.make_tensor_value_info("logits", kind, ["batch", VOCAB]), *outs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def gates(step, x, count, how, states="h", size=HIDDEN):
    """That many gates before their activations: one product over [x, h], one over each, or one for each gate."""
    if how == "joined":
        both = step("Concat", x, states, axis=1)
        return step("Split", step.linear(both, WIDE + size, count * HIDDEN), axis=1, outputs=count)
    if how == "apart":
        total = step("Add", step.linear(x, WIDE, count * HIDDEN), step.linear(states, size, count * HIDDEN))
        return step("Split", total, axis=1, outputs=count)
    return [step("Add", step.linear(states, size, HIDDEN), step.linear(x, WIDE, HIDDEN)) for _ in range(count)]


def lstm(how="apart", *, peepholes=False, coupled=False, projected=None, clip=False, cell="Tanh", wrong=None):
    step, size = Step(), projected or HIDDEN
    i, f, g, o = gates(step, step.embedded(), 4, how, size=size)

    def opened(gate, c):
        if peepholes:
            gate = step("Add", gate, step("Mul", step.weight(HIDDEN), c))
        if clip:
            gate = step("Clip", gate, step.constant(np.float32(-0.4)), step.constant(np.float32(0.4)))
        return step("Sigmoid", gate)

    i = opened(i, "c")
    f = step("Sub", step.constant(np.float32(1)), i) if coupled else opened(f, "c")
    if clip:
        g = step("Clip", g, step.constant(np.float32(-0.4)), step.constant(np.float32(0.4)))
    c = step("Sub" if wrong == "sign" else "Add", step("Mul", step("Tanh", g), i), step("Mul", "c", f))
    h = step("Mul", step(cell, "c" if wrong == "old c" else c), opened(o, c))
    if projected:
        h = step("MatMul", h, step.weight(HIDDEN, projected))
    step.state("c", HIDDEN, c)
    step.state("h", size, h)
    return step.model(h, size)


def gru(form, how="apart", *, reset="after", wrong=None):
    step = Step()
    x, one = step.embedded(), step.constant(np.float32(1))
    z, r = (step("Sigmoid", gate) for gate in gates(step, x, 2, how))
    if reset == "after":
        n = step("Add", step.linear(x, WIDE, HIDDEN), step("Mul", r, step.linear("h", HIDDEN, HIDDEN)))
    else:
        n = step("Add", step.linear(x, WIDE, HIDDEN), step.linear(step("Mul", "h", r), HIDDEN, HIDDEN))
    n = step("Tanh", n)
    rest = step("Sub", one, r if wrong else z)
    h = {
        "sum": lambda: step("Add", step("Mul", rest, n), step("Mul", z, "h")),
        "swapped": lambda: step("Add", step("Mul", z, n), step("Mul", "h", rest)),
        "from n": lambda: step("Add", n, step("Mul", z, step("Sub", "h", n))),
        "from h": lambda: step("Add", "h", step("Mul", step("Sub", n, "h"), z)),
    }[form]()
    step.state("h", HIDDEN, h)
    return step.model(h, HIDDEN)


def rnn(activation, how):
    step = Step()
    h = step(activation, gates(step, step.embedded(), 1, how)[0] if how == "each" else gates_of_one(step, how))
    step.state("h", HIDDEN, h)
    return step.model(h, HIDDEN)


def gates_of_one(step, how):
    x = step.embedded()
    if how == "joined":
        return step.linear(step("Concat", x, "h", axis=1), WIDE + HIDDEN, HIDDEN)
    return step("Add", step.linear(x, WIDE, HIDDEN), step.linear("h", HIDDEN, HIDDEN))


HOW = ["joined", "apart", "each"]
CELLS = {
    **{f"lstm {how}": lstm(how) for how in HOW},
    "lstm peepholes": lstm(peepholes=True),
    "lstm coupled": lstm(coupled=True),
    "lstm coupled peepholes": lstm("joined", coupled=True, peepholes=True),
    "lstm clip": lstm(clip=True),
    "lstm relu": lstm(cell="Relu"),
    "lstm without a function of c": lstm(cell="Identity"),
    **{f"lstm projected to {n}": lstm(how, projected=n) for n, how in ((3, "joined"), (HIDDEN, "apart"), (8, "each"))},
    **{f"gru {form}, reset {reset}": gru(form, reset=reset) for form in ("sum", "swapped", "from n", "from h") for reset in ("before", "after")},
    **{f"gru {how}": gru("sum", how) for how in HOW},
    **{f"rnn {activation} {how}": rnn(activation, how) for activation in ("Tanh", "Relu", "Softsign") for how in HOW},
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_of_plain_operators_runs_natively(name):
    model = load(CELLS[name], executor="native")
    exact = load(CELLS[name], executor="onnxruntime")
    step, drift = differences(exact._network.session, model._network.step_session, model._network.contract)
    assert step < 3e-6
    assert drift < 1e-5
    found, expected = (decode(m, [[1], [2, 3]], Greedy(), max_new_tokens=30) for m in (model, exact))
    assert [out.ids.tolist() for out in found] == [out.ids.tolist() for out in expected]


@pytest.mark.parametrize("name", ["lstm peepholes", "lstm projected to 3", "gru from n, reset before", "rnn Relu each"])
def test_its_rows_have_the_same_bits_in_every_batch(name):
    model = load(CELLS[name], executor="native")
    together = decode(model, [[k % VOCAB] for k in range(20)], Sample(), max_new_tokens=20, seed=1, batch_size=20)
    apart = decode(model, [[k % VOCAB] for k in range(20)], Sample(), max_new_tokens=20, seed=1, batch_size=3)
    for a, b in zip(together, apart, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.logprob == b.logprob


@pytest.mark.parametrize("proto", [lstm(wrong="sign"), lstm(wrong="old c"), gru("sum", wrong=True)])
def test_other_formulas_are_refused(proto):
    with pytest.raises(ModelError, match=r"in the way is (Mul|Add|Sub) .*by no formula of an LSTM, GRU or RNN"):
        load(proto, executor="native")
    assert "onnxruntime runs it: in the way of the native step is" in load(proto).describe()


def test_dense_layers_and_functions_of_the_token_between():
    step = Step()
    x = step("LeakyRelu", step.linear(step("Relu", step.linear(step.embedded(), WIDE, 7)), 7, WIDE), alpha=0.3)
    i, f, g, o = gates(step, x, 4, "apart")
    c = step("Add", step("Mul", step("Sigmoid", f), "c"), step("Mul", step("Sigmoid", i), step("Tanh", g)))
    h = step("Mul", step("Sigmoid", o), step("Tanh", c))
    step.state("h", HIDDEN, h)
    step.state("c", HIDDEN, c)
    above = step("Tanh", step.linear(h, HIDDEN, 8))
    above = step("Add", above, step("Relu", step.linear(above, 8, 8)))
    model = load(step.model(above, 8), executor="native")
    assert max(differences(model._network.session, model._network.step_session, model._network.contract)) < 3e-6


def test_ids_are_changed_before_the_embedding():
    step = Step()
    table = step.weight(VOCAB + 2, HIDDEN)
    below = step("Less", "tokens", step.constant(np.int64(0)))
    ids = step("Where", below, step("Add", "tokens", step.constant(np.int64(VOCAB))), "tokens")
    ids = step("Add", ids, step.constant(np.int64(2)))
    h = step("Tanh", step("Add", step("Gather", table, ids), step("MatMul", "h", step.weight(HIDDEN, HIDDEN))))
    step.state("h", HIDDEN, h)
    model = load(step.model(h, HIDDEN), executor="native")
    assert max(differences(model._network.session, model._network.step_session, model._network.contract)) < 3e-6
