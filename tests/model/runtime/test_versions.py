"""Files of a newer operator set than onnxruntime's, and the operators of opset 27 that onnxruntime has as its own."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from decoding import ModelError, decode, load
from decoding.model.runtime.versions import read_graph
from tests.helpers import build
from tests.helpers.text import proto

NEWEST = onnx.defs.onnx_opset_version()


def with_versions(model, opset, ir_version=onnx.IR_VERSION):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    next(entry for entry in model.opset_import if not entry.domain).version = opset
    model.ir_version = ir_version
    return model


def one_node(op, inputs, attributes, opset, outputs=("y", "state")):
    """A model of one operator; an input without a value is left out."""
    value, given = helper.make_tensor_value_info, {k: v for k, v in inputs.items() if v is not None}
    node = helper.make_node(op, [k if k in given else "" for k in inputs], outputs, **attributes)
    ports = [value(k, TensorProto.FLOAT, v.shape) for k, v in given.items()]
    graph = helper.make_graph([node], "g", ports, [helper.make_empty_tensor_value_info(name) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=13), given


def test_operators_of_older_sets_decode_in_a_file_of_the_newest():
    old = build.recurrent("LSTM", seed=2)
    new = with_versions(old, NEWEST)
    prompts = [[3, 1], [4]]
    assert decode(load(new), prompts, max_new_tokens=9, seed=1).tokens == decode(load(old), prompts, max_new_tokens=9, seed=1).tokens  # fmt: skip
    assert new.opset_import[0].version == NEWEST  # the caller's ModelProto is left as it is


def test_what_onnxruntime_takes_is_left_as_it_is():
    for opset, ir_version in ((9, 4), (17, 8), (21, 10)):
        graph = read_graph(with_versions(build.recurrent("GRU"), opset, ir_version))
        assert (graph.opset, graph.ir_version) == (opset, ir_version)


@pytest.mark.parametrize("place", ["graph", "body"])
def test_an_operator_that_means_something_else_keeps_the_files_set(place):
    """Range got an attribute in opset 27."""
    text = "y = Range(start, limit, delta)"
    if place == "body":
        text = f"y = If(go)<then_branch = yes () => (int64[n] y) {{ {text} }}, else_branch = no () => (int64[n] y) {{ {text} }}>"
    model = with_versions(
        proto(f"(int64 start, int64 limit, int64 delta, bool go) => (int64[n] y) {{ {text} }}"), NEWEST
    )
    graph = read_graph(model)
    assert (graph.opset, graph.ir_version) == (NEWEST, onnx.IR_VERSION)


@pytest.mark.skipif(onnx.defs.get_schema("Mod").since_version < NEWEST, reason="this onnx has no newer Mod (1.23 has)")
def test_a_file_that_cannot_be_lowered_is_refused_by_its_opset():
    model = build.recurrent("LSTM")
    model.graph.node.append(helper.make_node("Mod", [model.graph.output[0].name] * 2, ["rest"], fmod=1))
    model.graph.output[0].name = "rest"
    with pytest.raises(ModelError, match=r"IR version|opset"):
        load(with_versions(model, NEWEST))


@pytest.mark.parametrize("opset", [2**40, -3])
def test_a_set_that_nobody_knows_ends_in_words(opset):
    with pytest.raises(ModelError):
        load(with_versions(build.recurrent("LSTM"), opset))


def ran(model, feeds):
    """Outputs of onnxruntime for a model read for it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(read_graph(model).skeleton()[0], options).run(None, feeds)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize(("time", "width"), [(1, 4), (5, 6)])
@pytest.mark.parametrize("past", [True, False])
def test_linear_attention_is_onnxs(rule, heads, time, width, past):
    draw, (queries, memories), size = np.random.default_rng(0), heads, 4
    shapes = {
        "query": (2, time, queries * size), "key": (2, time, memories * size), "value": (2, time, memories * width),
        "past_state": (2, memories, size, width) if past else None,
        "decay": (2, time, memories) if "gated" in rule else None,
        "beta": (2, time, memories) if "delta" in rule else None,
    }  # fmt: skip
    inputs = {k: None if s is None else draw.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    if inputs["decay"] is not None:
        inputs["decay"] = -abs(inputs["decay"])
    attributes = {"q_num_heads": queries, "kv_num_heads": memories, "update_rule": rule}
    model, feeds = one_node("LinearAttention", inputs, attributes, 27)
    for found, expected in zip(ran(model, feeds), ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "silu", "swish"])
@pytest.mark.parametrize("time", [1, 5])
@pytest.mark.parametrize(("past", "bias"), [(True, True), (False, False)])
def test_causal_convolution_is_onnxs(activation, time, past, bias):
    draw = np.random.default_rng(0)
    shapes = {"input": (2, 6, time), "weight": (6, 1, 4), "bias": (6,) if bias else None,
              "past_state": (2, 6, 3) if past else None}  # fmt: skip
    inputs = {k: None if s is None else draw.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    model, feeds = one_node("CausalConvWithState", inputs, {"activation": activation}, 27)
    for found, expected in zip(ran(model, feeds), ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
