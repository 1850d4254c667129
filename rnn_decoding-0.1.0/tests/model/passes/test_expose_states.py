"""decoding/model/passes/expose_states.py: hidden states are found, get initial values, and become inputs and outputs."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.passes.expose_states import (
    HiddenState,
    InitialValue,
    expose_states,
    exposed_states,
    find_hidden_states,
    initial_values,
)
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session
from tests.helpers import build

ROLES = Roles("tokens", "logits", {}, {})


def found(proto, roles=ROLES):
    graph = Graph.load(proto)
    return graph, find_hidden_states(graph, roles)


def started(nodes, weights=(), inputs=(), cell="GRU"):
    """A GRU whose initial state is the tensor `start`, made by these nodes."""
    proto = build.recurrent(cell, hidden=2)
    next(n for n in proto.graph.node if n.op_type == cell).input[5] = "start"
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in dict(weights).items())
    proto.graph.input.extend(inputs)
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    return proto


def values(graph, hidden, contexts=()):
    declared = {port.name: port.shape for port in graph.inputs}
    return initial_values(graph, hidden, declared, contexts)


@pytest.mark.parametrize(("cell", "names"), [("LSTM", ["h", "c"]), ("GRU", ["h"]), ("RNN", ["h"])])
def test_the_states_of_layers_in_order(cell, names):
    _, hidden = found(build.recurrent(cell, layers=2))
    assert [h.name for h in hidden] == [f"state_{layer}_{name}" for layer in (0, 1) for name in names]
    assert {h.size for h in hidden} == {8}
    assert hidden[0].source == f"hidden in {cell} layer0"


def test_states_that_the_file_exposes_are_not_hidden():
    roles = Roles("tokens", "logits", {"h0": "h0_out"}, {})
    assert found(build.recurrent("GRU", exposed=True), roles)[1] == []


def test_layers_off_the_path_of_the_token_are_left_out():
    graph, _ = found(build.recurrent("GRU"))
    assert find_hidden_states(graph, Roles("tokens", "embedded", {}, {})) == []


def test_without_an_initial_value_a_state_starts_from_zeros():
    (initial,) = values(*found(build.recurrent("GRU")))
    assert initial.value.shape == (1, 1, 8)
    assert not initial.value.any()
    assert initial.axes == (1,)


def test_a_constant_initial_value_of_one_row():
    graph, hidden = found(started([], {"start": np.array([[[1.0, 2.0]]], np.float32)}))
    (initial,) = values(graph, hidden)
    np.testing.assert_array_equal(initial.row(1, "m"), [[[1, 2]]])


def test_rows_of_a_fixed_batch_that_start_differently_are_refused():
    rows = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    (initial,) = values(*found(started([], {"start": rows})))
    with pytest.raises(
        ModelError, match="m: the state h starts differently in each row of its fixed batch of 2; export"
    ):
        initial.row(1, "m: the state h")


def test_an_initial_value_from_a_context_tells_its_name_and_no_numbers():
    context = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2])
    axes = {"front": np.array([0])}
    graph, hidden = found(started([helper.make_node("Unsqueeze", ["image", "front"], ["start"])], axes, [context]))
    (initial,) = values(graph, hidden, {"image"})
    assert (initial.context, initial.value.shape) == ("image", (1, 2, 2))
    assert InitialValue(np.ones((1, 2, 2)), (1,), "image").row(1, "m").tolist() == [[[0, 0]]]
    with pytest.raises(ModelError, match="hidden in GRU layer0 starts from the input image; export the initial state"):
        values(graph, hidden)


def test_the_axes_that_follow_the_batch_may_count_rows():
    """Of a Loop's state nothing but running tells which axis that is."""
    context = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2])
    node = helper.make_node("Identity", ["image"], ["start"])
    graph, (layer,) = found(started([node], (), [context]))
    state = HiddenState("s", layer.node_output, "hidden in a Loop", 5, 1, "start", np.dtype(np.float32), None)
    assert values(graph, [state], {"image"})[0].axes == (0,)


def test_a_size_that_no_state_has_is_called_damage():
    nodes = [helper.make_node("ConstantOfShape", ["sizes"], ["start"])]
    with pytest.raises(ModelError, match="which no state has: the file is damaged"):
        values(*found(started(nodes, {"sizes": np.array([1, 2**14, 2**13])})))


def test_an_empty_initial_value_is_one_that_grows():
    nodes = [helper.make_node("ConstantOfShape", ["sizes"], ["start"])]
    with pytest.raises(ModelError, match=r"is empty, of the shape \[2, 0, 8\] for 2 rows: it grows with the sequence"):
        values(*found(started(nodes, {"sizes": np.array([2, 0, 8])})))


@pytest.mark.parametrize("how", ["Slice", "Cast", "Mul"])
def test_a_layer_has_the_number_type_of_the_weights_that_the_graph_arranges(how):
    proto = build.recurrent("GRU", hidden=8)
    graph = Graph.load(proto)
    (layer,) = [node for node in graph.nodes if node.op == "GRU"]
    weights = graph.constant(layer.input(2))
    halves = graph.add_initializer("halves", weights.astype(np.float32 if how == "Cast" else np.float16))
    more = {"Slice": ["begin", "end"], "Cast": [], "Mul": ["halves"]}[how]
    graph.add_initializer("begin", np.array([0]))
    graph.add_initializer("end", np.array([99]))
    to = {"to": np.dtype(np.float16)} if how == "Cast" else {}
    layer.set_input(2, graph.add_node(how, [halves, *more], "arranged", at=0, **to))
    graph.edited()
    assert graph.number_type("arranged") == np.float16
    assert graph.number_type("begin") == np.float32
    (state,) = find_hidden_states(graph, Roles("tokens", "logits", {}, {}))
    assert state.dtype == np.float16


def test_a_layer_without_weights_or_size_is_refused():
    proto = build.recurrent("GRU")
    weights = next(t for t in proto.graph.initializer if t.name == "R0")
    weights.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "R0"))
    with pytest.raises(ModelError, match=r"'layer0' has no recurrence weights .* and no hidden_size; export it again"):
        found(proto)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_exposed_states_carry_a_sequence_from_run_to_run(cell):
    graph, hidden = found(build.recurrent(cell, layers=2))
    pairs = list(zip(hidden, values(graph, hidden), strict=True))
    shapes = expose_states(graph, pairs)
    states = exposed_states(graph, pairs, shapes, [1] * len(pairs))
    assert {s.input for s in states} < {p.name for p in graph.inputs}
    assert all(s.source == h.source and not s.exposed for s, h in zip(states, hidden, strict=True))
    session = Session(graph, threads=1)
    ids = np.random.default_rng(0).integers(0, 11, (3, 8))
    first = {s.input: s.initial_rows(3) for s in states}
    logits, *after = session.run({"tokens": ids[:, :5], **first}, ["logits", *(s.output for s in states)])
    carried = dict(zip((s.input for s in states), after, strict=True))
    rest = session.run({"tokens": ids[:, 5:], **carried}, ["logits"])[0]
    whole = build.whole_run(build.recurrent(cell, layers=2), ids)
    np.testing.assert_allclose(np.concatenate([logits, rest], 1), whole, atol=1e-5)


def test_a_hidden_state_holds_for_a_copy_of_the_graph():
    graph, hidden = found(build.recurrent("LSTM"))
    pairs = list(zip(hidden, values(graph, hidden), strict=True))
    copy = graph.copy()
    copy.add_initializer("more", np.zeros(1, np.float32))
    copy.add_node("Identity", ["tokens"], "moved", at=0)
    expose_states(copy, pairs)
    assert {"state_0_h", "state_0_c"} <= {p.name for p in copy.inputs}
    assert "state_0_h" not in {p.name for p in graph.inputs}
