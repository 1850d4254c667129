"""Every LSTM, GRU and RNN case of the onnx package's own backend tests, wrapped as a model over tokens.

The case's X becomes an embedding table with one row for each batch row and time step, its states become the output:
the file then takes ids [batch, time] and gives what the operator gives for the last of them.
"""

import importlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node

from decoding import ModelError, load
from decoding.model.verify import equivalence

# Importing a module makes its cases; collect_testcases() would import the two hundred others too.
for module in ("gru", "lstm", "rnn"):
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
CASES = {case.name: case for case in node._NodeTestCases if case.model.graph.node[0].op_type in ("LSTM", "GRU", "RNN")}


def wrapped(case):
    """The case's node between an embedding and nothing: its last hidden state [batch, hidden] is the logits.

    Returns:
        The model, its ids [batch, time], and the expected output [batch, hidden].
    """
    layer = onnx.NodeProto.FromString(case.model.graph.node[0].SerializeToString())
    (inputs, outputs) = case.data_sets[0]
    values = dict(zip((i.name for i in case.model.graph.input), inputs, strict=True))
    expected = dict(zip((o.name for o in case.model.graph.output), outputs, strict=True))["Y_h"]
    batch_first = any(a.name == "layout" and a.i == 1 for a in layer.attribute)
    x = values.pop("X") if batch_first else values.pop("X").swapaxes(0, 1)
    batch, time, width = x.shape
    ids = np.arange(batch * time).reshape(batch, time)
    hidden = expected.shape[-1]

    first = [helper.make_node("Gather", ["table", "tokens"], ["embedded"])]
    if not batch_first:
        first.append(helper.make_node("Transpose", ["embedded"], ["X"], perm=[1, 0, 2]))
    layer.input[0] = "embedded" if batch_first else "X"
    directions, axis = (expected.shape[1], 1) if batch_first else (expected.shape[0], 0)
    states = {"initial_h", "initial_c"} & set(layer.input)
    assert all(not values[name].any() for name in states)  # zeros, ONNX's default: any batch then fits
    for index, name in enumerate(layer.input):
        if name in states or name == "sequence_lens":
            layer.input[index] = ""
            if name == "sequence_lens":
                assert (values[name] == time).all()
            del values[name]
    last = [
        helper.make_node("Squeeze", ["Y_h", "axis"], ["h"])
        if directions == 1
        else helper.make_node("ReduceSum", ["Y_h", "axis"], ["h"], keepdims=0),
        # A vocabulary must hold every id: the hidden units come first, zeros fill it up.
        helper.make_node("MatMul", ["h", "head"], ["logits"]),
    ]
    values |= {
        "table": np.pad(x.reshape(batch * time, width), ((0, max(0, hidden - batch * time)), (0, 0))),
        "axis": np.array([axis]),
        "head": np.eye(hidden, max(hidden, batch * time), dtype=np.float32),
    }
    graph = helper.make_graph(
        [*first, layer, *last],
        case.name,
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return proto, ids, expected.sum(axis=axis)


def test_the_package_has_its_cases():
    assert len(CASES) >= 12  # onnx 1.22 has 12, 1.23 has 18


@pytest.mark.parametrize("name", CASES)
def test_backend_case(name):
    proto, ids, expected = wrapped(CASES[name])
    layer = proto.graph.node[-3]
    direction = next((a.s.decode() for a in layer.attribute if a.name == "direction"), "forward")
    if direction != "forward":
        with pytest.raises(ModelError, match=f"{layer.op_type}.* is {direction}.*from its end"):
            load(proto)
        return
    model = load(proto)
    found = equivalence.stepped_run(model._network.session, model._network.contract, ids)[:, -1]
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=1e-6)
