"""decoding/model/passes/dynamic_shapes.py: sizes that an export baked become dynamic, or are refused with the reason."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, load
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.graph import Graph
from decoding.model.passes.dynamic_shapes import (
    declares_one_row,
    dynamic_target,
    make_reshapes_dynamic,
    make_spreads_dynamic,
    turn_loops_once,
)
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence
from tests.helpers import build


def reshapes(*targets, first="embedded"):
    """Ids [batch, time] embedded in 6 numbers, then a Reshape to each target; the last result is the output."""
    nodes, names, weights = [helper.make_node("Gather", ["table", "ids"], ["embedded"])], [first], {}
    for k, target in enumerate(targets):
        weights[f"target{k}"] = np.array(target)
        nodes.append(helper.make_node("Reshape", [names[-1], f"target{k}"], [f"shaped{k}"], name=f"reshape{k}"))
        names.append(f"shaped{k}")
    return graph_of(nodes, weights, names[-1])


def graph_of(nodes, weights, output, inputs=()):
    weights = {"table": np.arange(30, dtype=np.float32).reshape(5, 6), **weights}
    proto = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"]), *inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return Graph.load(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def roles_of(graph, **auxiliary_inputs):
    return Roles("ids", graph.outputs[0].name, {}, dict(auxiliary_inputs))


def run(graph, batch, time, **feeds):
    ids = np.arange(batch * time).reshape(batch, time) % 5
    return Session(graph, threads=1).run({"ids": ids, **feeds}, [graph.outputs[0].name])[0]


RUNS = [(2, 3), (4, 3), (2, 5)]


@pytest.mark.parametrize(
    ("target", "shape", "expected"),
    [
        ([2, 3, 6], "bt6", [0, 0, 6]),
        ([2, -1, 6], "bt6", [0, 0, 6]),
        ([2, 3, 6], "b1t6", [0, -1, 6]),
        ([6, 6], "bt6", [-1, 6]),
        ([-1, 6], "bt6", [-1, 6]),
        ([3, 12], "t26", [0, 12]),  # merges dimensions after the only one that varies
        ([6, 2, 3], "t6", [0, 2, 3]),  # splits one
        ([2, 3, 2, 3], "bt6", [2, 3, 2, 3]),  # the same after two that vary
        ([2, 3, 1, 6], "bt6", [2, 3, 1, 6]),  # adds a dimension
        ([2, 3], "b1t1", [0, -1]),
        ([2, 3, 4], "bt6", [2, 3, 4]),  # 4 is no dimension
    ],
)
def test_one_target_for_every_size(target, shape, expected):
    given = [tuple({"b": b, "t": t}.get(d) or int(d) for d in shape) for b, t in RUNS]
    assert dynamic_target(target, given) == expected


@pytest.mark.parametrize("target", [[2, 3, 6], [2, -1, 6], [-1, 3, 6], [6, 6]])
def test_a_baked_reshape_runs_at_every_size_and_says_so(target):
    graph = reshapes(target)
    roles = roles_of(graph)
    before = run(graph, 2, 3)
    assert make_reshapes_dynamic(graph, roles, [], [], (2, 3)) == set()
    np.testing.assert_array_equal(run(graph, 2, 3), before)
    assert run(graph, 7, 4).size == 7 * 4 * 6
    assert f"the shape {target} baked into reshape0" in roles.notes[0]


def test_reshapes_are_judged_in_order():
    """The second is given what the first makes, once that is dynamic."""
    graph = reshapes([6, 6], [6, 6])
    make_reshapes_dynamic(graph, roles_of(graph), [], [], (2, 3))
    assert run(graph, 5, 4).shape == (20, 6)


def test_a_target_that_fits_every_size_stays():
    graph = reshapes([-1, 6], [-1, 2, 3])
    roles = roles_of(graph)
    make_reshapes_dynamic(graph, roles, [], [], (2, 3))
    assert roles.notes == []


def test_only_these_reshapes_are_judged():
    graph = reshapes([2, 3, 6])
    roles = roles_of(graph)
    make_reshapes_dynamic(graph, roles, [], [], (2, 3), only={"another"})
    assert roles.notes == []
    make_reshapes_dynamic(graph, roles, [], [], (2, 3), only={"shaped0"})
    assert len(roles.notes) == 1


def test_a_reshape_after_a_part_that_runs_at_one_size_is_not_judged():
    weights = {"two_rows": np.ones((2, 3, 6), np.float32), "target": np.array([2, 3, 6])}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Add", ["embedded", "two_rows"], ["sum"]),
        helper.make_node("Reshape", ["sum", "target"], ["shaped"], name="reshape"),
    ]
    graph = graph_of(nodes, weights, "shaped")
    roles = roles_of(graph)
    assert make_reshapes_dynamic(graph, roles, [], [], (2, 3)) == {"shaped"}
    assert roles.notes == []


def test_an_example_of_one_step_may_have_baked_any_one():
    graph = reshapes([-1, 1, 6])  # fits every size, but takes rows for steps
    make_reshapes_dynamic(graph, roles_of(graph), [], [], (1, 1))
    assert run(graph, 4, 1).shape == (4, 1, 6)
    assert run(graph, 4, 3).shape == (4, 3, 6)


@pytest.mark.parametrize("target", [[2, 3, 3, 2], [6, 3, 2]])
def test_why_a_reshape_with_a_baked_batch_is_refused(target):
    """Splitting a dimension as well leaves several targets that fit: the message names the shape and the remedy."""
    proto = build.recurrent("GRU", hidden=6)
    place = next(i for i, node in enumerate(proto.graph.node) if node.op_type == "MatMul")
    proto.graph.node[place].input[0] = "merged"
    shapes = {"target": np.array(target), "whole": np.array([2, 3, 6])}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in shapes.items())
    for node in (
        helper.make_node("Reshape", ["split", "whole"], ["merged"], name="merge"),
        helper.make_node("Reshape", ["back", "target"], ["split"], name="split"),
    ):
        proto.graph.node.insert(place, node)
    with pytest.raises(
        ModelError, match=r"cannot be reshaped.*baked its example's batch or time.*export it with a dynamic batch"
    ):
        load(proto)


def test_other_messages_get_no_advice_on_shapes():
    with pytest.raises(ModelError) as refused:
        load(build.recurrent("GRU", exposed=True), roles={"batch_axis": {"h0": 0}})
    assert "baked" not in str(refused.value)


@pytest.mark.parametrize("operator", ["Expand", "Tile"])
@pytest.mark.parametrize("declared", [("b", 4), ("b", "t")])
def test_a_context_is_repeated_for_each_token(operator, declared):
    sizes = [1, 4, 1]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Unsqueeze", ["image", "one"], ["row"]),
        helper.make_node(operator, ["row", "sizes"], ["steps"], name="spread"),
        helper.make_node("Add", ["embedded", "steps"], ["sum"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 6])
    graph = graph_of(nodes, {"sizes": np.array(sizes), "one": np.array([1])}, "sum", [image])
    context = np.arange(12, dtype=np.float32).reshape(2, 6)
    before = run(graph, 2, 4, image=context)
    roles = roles_of(graph, image="context")
    assert make_spreads_dynamic(graph, roles, declared, 1) == 4
    np.testing.assert_array_equal(run(graph, 2, 4, image=context), before)
    assert run(graph, 2, 7, image=context).shape == (2, 7, 6)
    assert roles.notes == ["spread spreads over as many steps as there are tokens, not 4"]


def test_what_is_repeated_over_no_context_stays():
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Expand", ["embedded", "sizes"], ["wide"]),
    ]
    graph = graph_of(nodes, {"sizes": np.array([4, 1, 1, 1])}, "wide")
    assert make_spreads_dynamic(graph, roles_of(graph, image="context"), ("b", 4), 1) is None


def test_shapes_of_auxiliary_inputs_are_part_of_what_is_run():
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Unsqueeze", ["image", "one"], ["row"]),
        helper.make_node("Add", ["embedded", "row"], ["sum"]),
        helper.make_node("Reshape", ["sum", "target"], ["shaped"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 6])
    graph = graph_of(nodes, {"target": np.array([2, 3, 6]), "one": np.array([1])}, "shaped", [image])
    context = AuxiliaryInput("image", "context", np.dtype(np.float32), 2, (6,))
    assert make_reshapes_dynamic(graph, roles_of(graph, image="context"), [], [context], (2, 3)) == set()
    assert run(graph, 5, 4, image=np.zeros((5, 6), np.float32)).shape == (5, 4, 6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 4), True), ((4, 1), True), ((2, 4), False), (("b", 1), False), ((1,), False), (None, False)],
)
def test_an_export_of_one_row(shape, expected):
    assert declares_one_row(shape) is expected


def loop(turns):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["h", "h"], ["twice"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Loop", ["turns", "", "embedded"], ["last"], name="loop", body=body),
    ]
    return graph_of(nodes, {"turns": np.array(turns)}, "last")


@pytest.mark.parametrize(("turns", "factor"), [(4, 2), (3, 8)])
def test_loops_over_the_examples_steps_turn_once(turns, factor):
    """Those of another number are none over steps, and keep it."""
    graph = loop(turns)
    once = run(reshapes([-1, 6]), 1, 1)
    turn_loops_once(graph, graph.nodes, (1, 4))
    np.testing.assert_array_equal(run(graph, 1, 1).ravel(), factor * once.ravel())


def test_a_loaded_export_with_baked_sizes_steps_as_the_file():
    proto = build.recurrent("GRU", hidden=6)
    merge = next(t for t in proto.graph.initializer if t.name == "merge")
    merge.CopyFrom(numpy_helper.from_array(np.array([3, 2, 6]), "merge"))  # an example of 2 rows of 3 steps
    model = load(proto)
    ids = np.random.default_rng(0).integers(0, 11, (2, 3))
    found = equivalence.stepped_run(model._network.session, model._network.contract, ids)
    np.testing.assert_allclose(found, build.whole_run(proto, ids), atol=1e-5)
    assert "the shape [3, 2, 6] baked into" in model.describe()
