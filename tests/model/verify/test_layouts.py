"""decoding/model/verify/layouts.py: which axis is which, found by running graphs of every layout."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session
from decoding.model.verify.layouts import StateShape, declared_state_shape, probe

VOCAB, SIZE = 7, 4
FLOAT = np.dtype(np.float32)


def accumulator(tokens, logits, state=("b", SIZE), returned=None):
    """Adds an embedding to a state at every step, and scores it: ids of rank `tokens`, scores in the layout `logits`."""
    rng = np.random.default_rng(0)
    weights = {"table": rng.standard_normal((VOCAB, SIZE)), "out": rng.standard_normal((SIZE, VOCAB))}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "out"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["logits"], perm=logits),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, tokens)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None] * len(logits))]
    if state is not None:
        nodes.append(helper.make_node("Identity", ["h"], ["next"]) if returned is None else returned)
        inputs.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, state))
        outputs.append(helper.make_tensor_value_info("next", TensorProto.FLOAT, [None] * len(state)))
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "accumulator", inputs, outputs, initializers)
    return Graph.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def layout(graph, states=()):
    return probe(Session(graph, threads=1), "ids", graph.rank("ids"), "logits", states, [])


@pytest.mark.parametrize(
    ("tokens", "order", "token", "logits", "sequence"),
    [
        (["b"], [0, 1], "B", "BV", False),
        (["b", "t"], [0, 1, 2], "BT", "BTV", True),
        (["b", "t"], [1, 0, 2], "BT", "TBV", True),
        (["b", "t"], [0, 2, 1], "BT", "BVT", True),
    ],
)
def test_layouts_of_token_and_logits(tokens, order, token, logits, sequence):
    found = layout(accumulator(tokens, order, None))
    assert (found.token.layout, found.logits.layout, found.sequence) == (token, logits, sequence)
    assert found.logits.vocab_size == VOCAB


def test_the_states_batch_tells_time_major_tokens():
    """A state [batch, 4] that is added to a time step: only [time, batch] runs."""
    add = helper.make_node("Add", ["h", "last"], ["next"])
    graph = accumulator(["t", "b"], [0, 1, 2], returned=add)
    axis = graph.add_initializer("first", np.array(0))
    graph.add_node("Gather", ["x", axis], "last", at=1, axis=0)
    found = layout(graph, [StateShape("h", "next", (None, SIZE), (0,), FLOAT)])
    assert (found.token.layout, found.axes) == ("TB", (0,))


def test_the_axis_that_counts_rows_is_the_first_that_runs():
    add = helper.make_node("Add", ["h", "row"], ["next"])
    graph = accumulator(["b"], [0, 1], [SIZE, "b"], add)
    graph.add_node("Transpose", ["x"], "row", at=1, perm=[1, 0])
    found = layout(graph, [StateShape("h", "next", (SIZE, SIZE), (0, 1), FLOAT)])
    assert found.axes == (1,)


def test_a_state_that_comes_out_in_another_shape_is_none():
    half = helper.make_node("Transpose", ["h"], ["next"], perm=[1, 0])
    with pytest.raises(
        ModelError, match=r"h goes in as \[5, 4\] and comes out of next as \[4, 5\]: they are not one state"
    ):
        layout(accumulator(["b"], [0, 1], returned=half), [StateShape("h", "next", (None, SIZE), (0,), FLOAT)])


def test_a_state_of_unknown_sizes_is_asked_for():
    with pytest.raises(ModelError, match=r"h has more than one dynamic dimension; pass roles=\{'batch_axis'"):
        layout(accumulator(["b"], [0, 1]), [StateShape("h", "next", (None, None), (0,), FLOAT)])


def test_scores_of_no_layout_are_shown():
    with pytest.raises(
        ModelError, match=r"for 5 rows of 3 tokens the output logits has shape \[7, 5, 3\]; expected logits"
    ):
        layout(accumulator(["b", "t"], [2, 0, 1], None))


@pytest.mark.parametrize(
    ("shape", "roles", "sizes", "axes"),
    [
        (["b", 4], {}, (None, 4), (0,)),
        ([2, "b", 4], {}, (2, None, 4), (1,)),
        (["x", "y"], {}, (None, None), (0, 1)),  # no name of the token's: any dynamic dimension
        ([2, 3, 4], {}, (2, 3, 4), (1, 0, 2)),
        ([3, 4], {}, (3, 4), (0, 1)),
        ([2, 3, 4], {"h": 2}, (2, 3, 4), (2,)),
    ],
)
def test_what_a_declared_shape_tells(shape, roles, sizes, axes):
    found = declared_state_shape(
        accumulator(["b"], [0, 1], shape), Roles("ids", "logits", {}, {}, batch_axis=roles), "h", "next"
    )
    assert (found.sizes, found.axes) == (sizes, axes)


def test_a_state_without_a_shape_is_refused():
    graph = accumulator(["b"], [0, 1])
    graph.set_shape("h", None)
    with pytest.raises(
        ModelError, match="the state input h declares no shape; export it with its shape, batch dynamic"
    ):
        declared_state_shape(graph, Roles("ids", "logits", {}, {}), "h", "next")
