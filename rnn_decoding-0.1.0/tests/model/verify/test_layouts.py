"""decoding/model/verify/layouts.py: which axis is which, found by running graphs of every layout."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, load
from decoding.model.graph.graph import Graph
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session
from decoding.model.verify.layouts import StateShape, _combinations, declared_state_shape, probe
from tests.helpers import build

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


def fixed_states(count, sizes=(1, 1, 8)):
    return [StateShape(f"s{i}", f"s{i}_out", sizes, (1, 0, 2), FLOAT) for i in range(count)]


def test_few_states_are_tried_on_every_combination_of_axes():
    assert list(_combinations(fixed_states(2))) == list(itertools.product((1, 0, 2), repeat=2))


@pytest.mark.parametrize("count", [4, 8, 12, 40])
def test_combinations_of_axes_grow_with_the_number_of_states(count):
    """Two states a layer: five layers had 59,049 combinations, 86 s (issue 13)."""
    tried = list(_combinations(fixed_states(count)))
    assert len(tried) == len(set(tried)) == 3 + 2 * count
    assert tried[:3] == [(1,) * count, (0,) * count, (2,) * count]
    assert (1,) * (count - 1) + (0,) in tried


def test_states_of_one_shape_share_an_axis():
    states = [*fixed_states(3), *fixed_states(3, (1, 1, 4))]
    tried = list(_combinations(states))
    assert (0, 0, 0, 1, 1, 1) in tried
    assert (1, 1, 1, 0, 0, 0) in tried


def test_where_no_likely_axes_fit_the_message_says_what_to_pass():
    graph = accumulator(["b", "t"], [0, 1, 2])
    with pytest.raises(
        ModelError, match=r"only the likely of 729 combinations were tried.*roles=\{'batch_axis': \{'s0': axis"
    ):
        layout(graph, fixed_states(6))


@pytest.mark.parametrize("layers", [1, 4, 6])
def test_runs_of_a_model_with_fixed_states_grow_with_its_layers(monkeypatch, layers):
    proto = build.recurrent("LSTM", layers=layers, exposed=True)
    for port in (*proto.graph.input, *proto.graph.output):
        for size in port.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = 1
    merge = next(t for t in proto.graph.initializer if t.name == "merge")
    merge.CopyFrom(numpy_helper.from_array(np.array([1, 3, 8]), "merge"))  # runs with no size that is tried at first
    runs = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *args, **options: (runs.append(1), run(*args, **options))[1])
    load(proto, threads=1, verify=False)
    assert len(runs) < 60 + 20 * layers
