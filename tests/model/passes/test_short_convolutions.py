"""Depthwise convolutions as onnxruntime's CausalConvWithState: the same numbers, and only where it means the same."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from decoding import load
from decoding.model.graph.graph import Graph
from decoding.model.passes.short_convolutions import rewrite_convolutions
from tests.helpers.exports import MODELS


def convolution(channels, taps, bias=True, group=None, opset=17, **attributes):
    draw, group = np.random.default_rng(0), group or channels
    weights = {"w": draw.normal(size=(channels, channels // group, taps)), "b": draw.normal(size=channels)}
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], group=group, **attributes),
             helper.make_node("Tanh", ["c"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["batch", channels, "time"])], [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items() if k == "w" or bias],
    )  # fmt: skip
    return Graph.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def ran(graph, x):
    return ort.InferenceSession(graph.skeleton()[0]).run(None, {"x": x})[0]


@given(
    channels=st.integers(2, 40),
    taps=st.integers(2, 6),
    more=st.integers(0, 9),
    batch=st.integers(1, 4),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_same_numbers(channels, taps, more, batch, bias):
    graph = convolution(channels, taps, bias)
    x = np.random.default_rng(1).normal(size=(batch, channels, taps + more)).astype(np.float32)
    expected = ran(graph, x)
    assert rewrite_convolutions(graph) == 1
    assert "Conv" not in [node.op for node in graph.nodes]
    np.testing.assert_allclose(ran(graph, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"pads": [2, 0]}, {"pads": [1, 1]}, {"strides": [2]}, {"dilations": [2]}, {"auto_pad": "SAME_LOWER"},
     {"group": 1}, {"group": 2}, {"taps": 1}, {"opset": 9}],
)  # fmt: skip
def test_any_other_convolution_stays(options):
    graph = convolution(**{"channels": 4, "taps": 3, **options})
    assert rewrite_convolutions(graph) == 0
    assert "Conv" in [node.op for node in graph.nodes]


@pytest.mark.parametrize("name", ["lm_legacy_mamba", "lm_dynamo_qwen3_next"])
def test_real_exports_run_so(name):
    ops = [node.op for node in load(MODELS / f"{name}.onnx")._network.program.graph.nodes]
    assert "com.microsoft.CausalConvWithState" in ops
    assert "Conv" not in ops
