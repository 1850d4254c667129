"""Normalizing a file whose constants are not what its nodes need (issue 13)."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from decoding import ModelError, load
from tests.helpers import build


def with_if(condition):
    """A GRU whose logits an If returns, by this constant condition."""
    proto = build.recurrent("GRU")
    last = proto.graph.node[-1]
    end, last.output[0] = last.output[0], "scores"
    proto.graph.initializer.append(numpy_helper.from_array(condition, "condition"))
    branch = helper.make_graph([helper.make_node("Identity", ["scores"], ["same"])], "b", [], [onnx.ValueInfoProto(name="same")])  # fmt: skip
    proto.graph.node.append(helper.make_node("If", ["condition"], [end], then_branch=branch, else_branch=branch))
    return proto


@pytest.mark.parametrize("condition", [np.array(True), np.array([False]), np.array([[True]])])
def test_a_constant_condition_decides(condition):
    assert load(with_if(condition)).vocab_size == 11


@pytest.mark.parametrize(("condition", "shape"), [(np.zeros(0, bool), r"\[0\]"), (np.array([True, False]), r"\[2\]")])
def test_a_condition_is_one_bool(condition, shape):
    with pytest.raises(ModelError, match=rf"an If has the condition 'condition', bool of shape {shape}; expected one bool"):  # fmt: skip
        load(with_if(condition))


@pytest.mark.parametrize("axis", [7, -4, 2**62])
def test_an_embedding_along_an_axis_that_its_table_lacks(axis):
    proto = build.recurrent("GRU")
    proto.graph.node[0].attribute.append(helper.make_attribute("axis", axis))
    with pytest.raises(ModelError, match=r"cannot run it|the run failed"):
        load(proto)


@pytest.mark.parametrize("op", ["Gather", "Reshape", "GRU", "MatMul", "Transpose"])
def test_nodes_without_inputs(op):
    proto = build.recurrent("GRU")
    del next(node for node in proto.graph.node if node.op_type == op).input[:]
    with pytest.raises(ModelError):
        load(proto)


@pytest.mark.parametrize(
    "target", [np.array(3), np.zeros((1, 3), np.int64), np.zeros(0, np.int64), np.ones(3, np.float32), np.array(["a"])]
)
def test_a_shape_that_is_no_list_of_numbers(target):
    proto = build.recurrent("GRU")
    next(t for t in proto.graph.initializer if t.name == "merge").CopyFrom(numpy_helper.from_array(target, "merge"))
    with pytest.raises(ModelError):
        load(proto)


@pytest.mark.parametrize("size", [0, -1, 2**62])
def test_a_hidden_size_that_no_layer_has(size):
    """Where the recurrence weights are computed, the hidden size is the attribute."""
    proto = build.recurrent("GRU")
    layer = next(node for node in proto.graph.node if node.op_type == "GRU")
    layer.input[2] = "later"
    proto.graph.node.insert(0, helper.make_node("Cast", ["R0"], ["later"], to=1))
    next(a for a in layer.attribute if a.name == "hidden_size").i = size
    with pytest.raises(ModelError, match=r"has no recurrence weights .* and no hidden_size"):
        load(proto)
