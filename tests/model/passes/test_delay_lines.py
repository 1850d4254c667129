"""decoding/model/passes/delay_lines.py: causal convolutions and token shifts, stepped from states of their last inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from decoding import load
from decoding.model.verify.equivalence import stepped_run
from tests.helpers.exports import fixture, outcome

V, C = 7, 3
IDS = np.random.default_rng(3).integers(0, V, (3, 9))


class Network:
    """An embedding, then layers that are written both as ONNX operators and in float64 NumPy."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], {}, 0
        table = self.constant(self.rng.standard_normal((V, C)))
        self.x = self.node("Transpose", [self.node("Gather", [table, "tokens"])], perm=[0, 2, 1])
        self.value = self.weights[table][IDS].transpose(0, 2, 1).astype(np.float64)

    def constant(self, value):
        value = np.asarray(value)
        self.weights[f"w{len(self.weights)}"] = value.astype(np.float32) if value.dtype.kind == "f" else value
        return f"w{len(self.weights) - 1}"

    def node(self, op, inputs, **attributes):
        self.count += 1
        self.nodes.append(helper.make_node(op, inputs, [f"x{self.count}"], **attributes))
        return f"x{self.count}"

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def zeros(self, length):
        """Zeros [batch, C, length], sized by the input as torch's new_zeros is."""
        batch = self.node("Slice", [self.node("Shape", [self.x]), self.ints(0), self.ints(2)])
        return self.node("ConstantOfShape", [self.node("Concat", [batch, self.ints(length)], axis=0)])

    def convolution(self, kernel, dilation, way):
        """A causal convolution, padded in one of the ways of exporters, and a tanh."""
        weights = self.rng.standard_normal((C, C, kernel)).astype(np.float32)
        left, x, pads = (kernel - 1) * dilation, self.x, [0, 0]
        if way == "Pad":
            x = self.node("Pad", [x, self.ints(0, 0, left, 0, 0, 0)])
        elif way == "Concat":
            x = self.node("Concat", [self.zeros(left), x], axis=2)
        else:
            pads = [left, left if way != "one side" else 0]
        y = self.node("Conv", [x, self.constant(weights)], dilations=[dilation], pads=pads, kernel_shape=[kernel])
        if way == "cut":
            y = self.node("Slice", [y, self.ints(0), self.ints(-left), self.ints(2)])
        elif way == "cut to the length":
            end = self.node("Slice", [self.node("Shape", [self.x]), self.ints(2), self.ints(3)])
            y = self.node("Slice", [y, self.ints(0), end, self.ints(-1), self.ints(1)])
        self.x = self.node("Tanh", [y])
        padded = np.pad(self.value, ((0, 0), (0, 0), (left, 0)))
        steps = self.value.shape[2]
        taps = [weights[..., k] @ padded[..., k * dilation : k * dilation + steps] for k in range(kernel)]
        self.value = np.tanh(sum(taps))

    def shift(self, way):
        """The input less the one before it."""
        if way == "Pad":
            before = self.node("Pad", [self.x, self.ints(0, 0, 1, 0, 0, -1)])
        else:
            end = self.node("Slice", [self.x, self.ints(0), self.ints(-1), self.ints(2)])
            before = self.node("Concat", [self.zeros(1), end], axis=2)
        self.x = self.node("Sub", [self.x, before])
        self.value = self.value - np.pad(self.value, ((0, 0), (0, 0), (1, 0)))[..., :-1]

    def model(self):
        out = self.rng.standard_normal((C, V)).astype(np.float32)
        y = self.node("Transpose", [self.x], perm=[0, 2, 1])
        self.nodes.append(helper.make_node("MatMul", [y, self.constant(out)], ["logits"]))
        proto = helper.make_graph(
            self.nodes,
            "delays",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", V])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return model, self.value.transpose(0, 2, 1) @ out


WAYS = ("Pad", "Concat", "one side", "cut", "cut to the length")
convolutions = st.tuples(st.integers(2, 4), st.integers(1, 3), st.sampled_from(WAYS))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(convolutions, st.sampled_from(["Pad", "Concat"])), min_size=1, max_size=4), st.integers(0, 99)
)
def test_stacks_of_convolutions_and_shifts_are_stepped_exactly(layers, seed):
    network = Network(seed)
    for layer in layers:
        network.shift(layer) if isinstance(layer, str) else network.convolution(*layer)
    proto, expected = network.model()
    model = load(proto, threads=1)
    assert len(model._network.contract.states) == len(layers), model.describe()
    np.testing.assert_allclose(stepped_run(model._network.session, model._network.contract, IDS), expected, atol=1e-4)


def test_states_are_as_long_as_what_the_convolution_sees():
    network = Network()
    network.convolution(3, 2, "cut")
    network.shift("Concat")
    model = load(network.model()[0], threads=1)
    assert [state.initial.shape for state in model._network.contract.states] == [(1, C, 4), (1, C, 1)]
    assert "the last 4 steps that Conv" in model.describe()
    assert "verified: stepping equals the whole-sequence run" in model.describe()


def test_a_pad_of_another_value_and_a_learned_start_are_initial_states():
    network = Network()
    one = network.constant(np.array(1.5))
    network.x = network.node("Pad", [network.x, network.ints(0, 0, 1, 0, 0, -1), one])
    learned = network.constant(np.arange(C, dtype=np.float64).reshape(1, C, 1))
    batch = network.node("Slice", [network.node("Shape", [network.x]), network.ints(0), network.ints(1)])
    start = network.node("Expand", [learned, network.node("Concat", [batch, network.ints(C, 1)], axis=0)])
    end = network.node("Slice", [network.x, network.ints(0), network.ints(-1), network.ints(2)])
    network.x = network.node("Concat", [start, end], axis=2)
    shifted = np.pad(network.value, ((0, 0), (0, 0), (2, 0)))[..., :-2]
    shifted[..., 1], shifted[..., 0] = 1.5, np.arange(C)
    network.value = shifted
    proto, expected = network.model()
    model = load(proto, threads=1)
    assert [state.initial.ravel().tolist() for state in model._network.contract.states] == [[1.5] * C, [0, 1, 2]]
    np.testing.assert_allclose(stepped_run(model._network.session, model._network.contract, IDS), expected, atol=1e-4)


@pytest.mark.parametrize("pads", [[1, 1], [0, 2]])
def test_a_convolution_that_sees_what_comes_is_no_state(pads):
    network = Network()
    weights = network.constant(np.ones((C, C, 3)))
    network.x = network.node("Conv", [network.x, weights], pads=pads)
    model = load(network.model()[0], threads=1)
    assert (model._network.contract.states, model._network.contract.window is None) == ((), False)


def test_the_original_judges_and_windows_run_it_as_it_is():
    """A Pad of the features is no delay, whatever its axis is called."""
    network = Network()
    network.x = network.node("Pad", [network.x, network.ints(0, 1, 0, 0, -1, 0)])
    network.value = np.pad(network.value, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    network.shift("Pad")
    proto, expected = network.model()
    model = load(proto, threads=1)
    assert [state.initial.shape for state in model._network.contract.states] == [(1, C, 1)]
    np.testing.assert_allclose(stepped_run(model._network.session, model._network.contract, IDS), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["torch_legacy_tcn_gru", "torch_dynamo_tcn_gru", "torch_legacy_qrnn"])
def test_real_exports_have_a_state_for_each_convolution(name):
    _, _, roles = fixture(name)
    model, refused = outcome(name, roles)
    assert model is not None, refused
    assert sum("delay" in state.input for state in model._network.contract.states) == {"qrnn": 2}.get(
        name.split("_")[-1], 4
    )
