"""decoding/model/: from an exported file to a step graph."""

import copy
import pickle
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import Greedy, ModelError, decode, load
from decoding.model.graph.graph import Graph
from decoding.model.verify import equivalence
from tests.helpers import build

CELLS = ["LSTM", "GRU", "RNN"]
IDS = np.random.default_rng(0).integers(0, 11, (3, 20))


def stepped(model, ids):
    return equivalence.stepped_run(model._network.session, model._network.contract, np.asarray(ids))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_hidden_states_are_exposed_and_stepping_equals_the_unchanged_file(cell, layers):
    proto = build.recurrent(cell, layers=layers, seed=layers)
    model = load(proto)
    ids = np.random.default_rng(0).integers(0, 11, (3, 20))
    np.testing.assert_allclose(stepped(model, ids), build.whole_run(proto, ids), atol=1e-5)
    assert len(model._network.contract.states) == layers * (2 if cell == "LSTM" else 1)
    assert model._network.contract.sequence


@pytest.mark.parametrize("cell", CELLS)
def test_exposed_states_are_paired(cell):
    model = load(build.recurrent(cell, layers=2, exposed=True))
    hidden = load(build.recurrent(cell, layers=2))
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    np.testing.assert_allclose(stepped(model, ids), stepped(hidden, ids), atol=1e-6)
    assert all(s.output == f"{s.input}_out" for s in model._network.contract.states)


@pytest.mark.parametrize(("final", "kind"), [("Softmax", "probs"), ("LogSoftmax", "logprobs")])
def test_a_final_softmax_is_cut(final, kind):
    plain, ended = load(build.recurrent(seed=4)), load(build.recurrent(seed=4, final=final))
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    np.testing.assert_allclose(stepped(ended, ids), stepped(plain, ids), atol=1e-6)
    assert f"the final {final} was cut" in ended.describe()


def test_initial_states_other_than_zero_are_kept_and_reported():
    proto = build.recurrent("GRU", hidden=2)
    node = next(n for n in proto.graph.node if n.op_type == "GRU")
    node.input[5] = "start"
    # As exporters do it: a constant expanded to the batch, whose size is taken from the input.
    proto.graph.initializer.append(numpy_helper.from_array(np.array([[[0.5, -2.0]]], np.float32), "value"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
    for new in (
        helper.make_node("Expand", ["value", "shape"], ["start"]),
        helper.make_node("Concat", ["one", "batch", "two"], ["shape"], axis=0),
        helper.make_node("Shape", ["tokens"], ["batch"], end=1),
    ):
        proto.graph.node.insert(0, new)
    model = load(proto)
    assert model._network.contract.states[0].initial.ravel().tolist() == [0.5, -2.0]
    assert "starts from values in the file" in model.describe()
    ids = [[3, 1, 4, 1, 5]]
    np.testing.assert_allclose(stepped(model, ids), build.whole_run(proto, ids), atol=1e-6)


def test_bytes_paths_and_protos_give_the_same_model(tmp_path):
    proto = build.recurrent()
    onnx.save(proto, tmp_path / "m.onnx")
    ids = [[1, 2, 3]]
    results = [
        stepped(load(source), ids)
        for source in (proto, proto.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_loading_does_not_edit_the_proto_it_was_given():
    proto = build.recurrent(final="Softmax")
    before = proto.SerializeToString()
    load(proto)
    assert proto.SerializeToString() == before


def test_a_model_shows_what_its_users_need_and_no_more():
    shown = {name for name in dir(load(build.recurrent("LSTM"))) if not name.startswith("_")}
    facts = {"name", "tokenizer", "bos_token_id", "eos_token_id", "pad_token_id", "max_new_tokens", "vocab_size"}
    facts |= {"latents", "fingerprint", "executor", "passes", "providers", "weight_bytes"}
    assert shown == {*facts, "describe", "run", "save", "with_weights"}


def test_a_saved_model_loads_again_without_rewriting(tmp_path):
    first = load(build.recurrent(layers=2, final="Softmax"))
    first.save(tmp_path / "steps.onnx")
    second = load(tmp_path / "steps.onnx")
    ids = [[1, 2, 3, 4]]
    np.testing.assert_array_equal(stepped(second, ids), stepped(first, ids))
    assert "was cut" not in second.describe()
    assert "hidden in" not in second.describe()
    assert onnx.load(tmp_path / "steps.onnx").graph.input[1].type.tensor_type.shape.dim[1].dim_param == "batch"


def test_roles_may_stand_in_the_metadata():
    roles = {"token": "tokens", "logits": "logits", "state": {"h0": "h0_out", "c0": "c0_out"}}
    model = load(build.recurrent(exposed=True, metadata={"decoding.roles": roles}))
    assert "token is tokens: given by roles" in model.describe()


def test_special_ids_and_vocabulary_come_from_the_metadata():
    vocab = [chr(ord("a") + i) for i in range(11)]
    model = load(
        build.recurrent(
            metadata={"decoding.vocab": vocab, "decoding.bos": 1, "decoding.eos": [2, 3], "decoding.pad": 0}
        )
    )
    assert (model.bos_token_id, model.eos_token_id, model.pad_token_id) == (1, (2, 3), 0)
    assert model.tokenizer.encode("ba") == [1, 0]
    assert model.vocab_size == 11


def test_forbidden_tokens_do_not_keep_verification_from_looking():
    swapped = {"state": {"h0": "h1_out", "h1": "h0_out"}}
    bias = [-np.inf, *[0.0] * 10]
    assert "verified: stepping equals" in load(build.recurrent("GRU", layers=2, exposed=True, bias=bias)).describe()
    with pytest.raises(ModelError, match="stepping differs"):
        load(build.recurrent("GRU", layers=2, exposed=True, bias=bias), roles=swapped)


@pytest.mark.parametrize("move", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_says_why_it_cannot_be_pickled_or_copied(move):
    with pytest.raises(TypeError, match=r"a Model cannot be pickled or copied.*load\(\) its file"):
        move(load(build.recurrent()))


def test_the_shipped_model_loads_by_its_name():
    model = load("shakespeare")
    assert model.vocab_size == 65
    assert "h -> h_out" in model.describe()


def two_inputs(renamed):
    """An LSTM whose two states have the same shape and names that say nothing."""
    proto = build.recurrent("GRU", exposed=True, layers=2)
    for graph_value in (*proto.graph.input, *proto.graph.output):
        graph_value.name = renamed.get(graph_value.name, graph_value.name)
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    return proto


def test_states_without_telling_names_are_paired_by_their_layers():
    model = load(two_inputs({"h0": "p", "h1": "q", "h0_out": "r", "h1_out": "s"}))
    assert [(s.input, s.output) for s in model._network.contract.states] == [("p", "r"), ("q", "s")]


def plain_cells():
    """Two accumulators of plain operators: nothing but order could say which output belongs to which input."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Add", ["p", "q"], ["mix"]),
        helper.make_node("Add", ["x", "mix"], ["r"]),
        helper.make_node("Mul", ["x", "mix"], ["s"]),
        helper.make_node("MatMul", ["r", "out"], ["logits"]),
    ]
    state = [TensorProto.FLOAT, ["b", 4]]
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b"])]
        + [helper.make_tensor_value_info(n, *state) for n in "pq"],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 5])]
        + [helper.make_tensor_value_info(n, *state) for n in "rs"],
        [
            numpy_helper.from_array(np.ones(shape, np.float32), name)
            for name, shape in (("table", (5, 4)), ("out", (4, 5)))
        ],
    )
    return build.model(graph)


def test_an_ambiguous_model_is_refused_and_roles_settle_it():
    with pytest.raises(
        ModelError,
        match=r"ambiguous: the next value of the input p float32\[b, 4\] could be any of r .*; s .*roles=\{'state'",
    ):
        load(plain_cells())
    model = load(plain_cells(), roles={"state": {"p": "s", "q": "r"}})
    assert [(s.input, s.output) for s in model._network.contract.states] == [("p", "s"), ("q", "r")]


def test_a_provider_with_options():
    assert load(build.recurrent(), providers=[("cpu", {})])._network.session.providers == ["CPUExecutionProvider"]


def test_a_chain_of_many_nodes_loads_as_quickly_as_onnxruntime_alone():
    """Sizes of inputs without names made onnxruntime's sessions quadratic: 20 s for 4,000 nodes (issue 13)."""
    proto = build.recurrent("GRU")
    last, count = proto.graph.node[-1], 4000
    end, last.output[0] = last.output[0], "link0"
    for i in range(count):
        proto.graph.node.append(helper.make_node("Neg", [f"link{i}"], [f"link{i + 1}" if i < count - 1 else end]))
    began = time.process_time()
    load(proto, threads=1)
    assert time.process_time() - began < 5


def test_a_session_gets_names_for_all_sizes_and_the_graph_stays():
    graph = Graph.load(build.recurrent("GRU", exposed=True))
    for port in graph.inputs:
        graph.set_shape(port.name, [None] * len(port.shape))
    data, _ = graph.skeleton()
    sizes = [d.dim_param for port in onnx.load_model_from_string(data).graph.input for d in port.type.tensor_type.shape.dim]  # fmt: skip
    assert all(sizes)
    assert len(set(sizes)) == len(sizes) == 5
    assert all(port.shape == (None,) * len(port.shape) for port in graph.inputs)


def test_nodes_in_no_order_are_sorted():
    proto = build.recurrent("GRU", layers=2)
    plain = load(proto)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    ids = [[1, 2, 3, 4]]
    np.testing.assert_array_equal(stepped(load(proto), ids), stepped(plain, ids))


def test_weights_cut_by_the_size_of_the_initial_zeros_are_cut_once():
    """As torch's dynamo exporter writes them without its optimizer; onnxruntime would cut them at every step."""
    proto = build.recurrent("LSTM", hidden=8)
    whole = build.whole_run(proto, IDS)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    wide = np.pad(numpy_helper.to_array(tensors["W0"]), [(0, 0), (0, 0), (0, 3)])
    tensors["W0"].CopyFrom(numpy_helper.from_array(wide, "W0_wide"))
    sizes = {"one": 1, "eight": 8, "first": 0, "third": 2}
    proto.graph.initializer.extend(numpy_helper.from_array(np.array([v]), k) for k, v in sizes.items())
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nought"))
    nodes = [
        helper.make_node("Shape", ["tokens"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Concat", ["one", "rows", "eight"], ["sizes"], axis=0),
        helper.make_node("Expand", ["nought", "sizes"], ["zeros"]),
        helper.make_node("Shape", ["zeros"], ["measured"]),
        helper.make_node("Gather", ["measured", "third"], ["width"]),
        helper.make_node("Slice", ["W0_wide", "first", "width", "third"], ["W0"]),
    ]
    for place, node in enumerate(nodes):
        proto.graph.node.insert(place, node)
    layer = next(node for node in proto.graph.node if node.op_type == "LSTM")
    del layer.input[5:]
    layer.input.extend(["zeros", "zeros"])
    np.testing.assert_array_equal(build.whole_run(proto, IDS), whole)
    model = load(proto)
    np.testing.assert_allclose(stepped(model, IDS), whole, atol=1e-5)
    assert model._graph.part(["W0"]).inputs == []
    changed = np.where(wide, wide + 0.25, 0).astype(np.float32)
    other = model.with_weights({"W0_wide": changed})
    tensors["W0"].CopyFrom(numpy_helper.from_array(changed, "W0_wide"))
    np.testing.assert_allclose(stepped(other, IDS), build.whole_run(proto, IDS), atol=1e-5)


def history_reader():
    """A Loop whose list of states is read again at each turn: the next state depends on the mean of all before."""
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["embedded", "t"], ["x"], axis=1),
            helper.make_node("ReduceSum", ["list", "one"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["added"]),
            helper.make_node("Tanh", ["added"], ["h"]),
            helper.make_node("Unsqueeze", ["h", "one"], ["entry"]),
            helper.make_node("Concat", ["list", "entry"], ["longer"], axis=1),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("t", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("list", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("longer", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Shape", ["tokens"], ["batch"], end=1),
        helper.make_node("Shape", ["tokens"], ["time"], start=1),
        helper.make_node("Concat", ["batch", "empty"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["start"]),
        helper.make_node("Squeeze", ["time"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "start"], ["logits"], body=body),
    ]
    table = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    constants = {"table": table, "empty": np.array([0, 6]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "history",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), table


def test_what_cannot_be_stepped_for_any_reason_runs_as_a_window():
    """The list grows, so it is no state; that used to end the loading of the file (issue 14)."""
    proto, table = history_reader()
    model = load(proto)
    assert "it grows with the sequence, so it is not carried from step to step" in model.describe()
    ids, states = [3, 1, 4, 1], []
    for token in ids:
        states.append(np.tanh(table[token] + sum(states, np.zeros(6))))
    expected = states[-1] - np.log(np.exp(states[-1]).sum())
    best = decode(model, [ids], Greedy(), max_new_tokens=1)[0]
    assert best.ids.tolist() == [int(expected.argmax())]
    np.testing.assert_allclose(best.token_logprobs[0], expected.max(), atol=1e-5)


def test_a_token_that_only_gives_lengths_is_not_stepped():
    """Of such a graph nothing reads the token once the states are exposed and the lengths are dropped (issue 13)."""
    proto = build.recurrent("GRU")
    layer = next(node for node in proto.graph.node if node.op_type == "GRU")
    nodes = [
        helper.make_node("Sign", ["tokens"], ["some"]),
        helper.make_node("ReduceSum", ["some", "axis"], ["count"], keepdims=0),
        helper.make_node("Cast", ["count"], ["lengths"], to=TensorProto.INT32),
    ]
    place = list(proto.graph.node).index(layer)
    for offset, node in enumerate(nodes):
        proto.graph.node.insert(place + offset, node)
    layer = proto.graph.node[place + len(nodes)]
    layer.input[0] = "same"
    layer.input.extend([""] * (5 - len(layer.input)))
    layer.input[4] = "lengths"
    proto.graph.initializer.extend([numpy_helper.from_array(np.ones((7, 5, 8), np.float32), "same"), numpy_helper.from_array(np.array([1]), "axis")])  # fmt: skip
    with pytest.raises(ModelError, match="a step does not read the token tokens"):
        load(proto)
