"""decoding/model/quantize.py: weights to int8 on load."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import helper, numpy_helper

from decoding import OptionError, Sample, decode, load, score
from decoding.model.passes.quantize import int8_rows
from decoding.model.verify import equivalence
from tests.helpers import build

MODELS = Path(__file__).parents[2] / "models"
FLOATS = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=3), elements=FLOATS), st.sampled_from([63, 127]))
def test_rows_are_off_by_half_a_scale_at_most(weights, largest):
    numbers, scale = int8_rows(weights, largest)
    assert numbers.dtype == np.int8
    assert scale.shape == weights.shape[:-1]
    assert np.abs(numbers.astype(int)).max() <= largest
    off = np.abs(numbers * scale[..., None].astype(np.float64) - weights)
    assert (off <= 0.5001 * scale[..., None] + 1e-37).all()


def stepped(model, ids):
    return equivalence.stepped_run(model._network.session, model._network.contract, ids)


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


# One for each way that exporters write weights: layers with states hidden and not, peepholes, plain cells with and
# without a bias behind the product, transposed weights, tied ones, ids as floats, Loops, a context.
@pytest.mark.parametrize("name", [
    "torch_dynamo_lstm2", "torch_legacy_lstm_states", "torch_dynamo_lstm_cells_unnamed", "torch_legacy_peephole_cells",
    "hand_lstm_peephole_states", "hand_lstm_layout1", "hand_lstm_input_forget", "tf2onnx_lstm2_softmax", "tf2onnx_onehot",
    "keras_tf_lstm_float_ids", "keras_torch_lstm_states", "torch_legacy_gru_tied", "torch_dynamo_gru_cells",
    "keras_tf_gru", "tf1_peephole_clip", "torch_dynamo_attention", "hand_lstm_clip", "hand_gru_activations",
])  # fmt: skip
def test_logits_are_near_those_of_the_float_model(name):
    exact, rounded = load(MODELS / f"{name}.onnx"), load(MODELS / f"{name}.onnx", quantize="int8")
    ids = np.random.default_rng(3).integers(0, exact.vocab_size, (4, 12))
    expected, found = stepped(exact, ids), stepped(rounded, ids)
    assert 0 < equivalence.difference(found, expected) < 0.1
    # Near to what the prefix calls for, not just small: most of the likeliest tokens are the same.
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.8


def test_the_shipped_model_loses_little():
    """Bits per character, int8 less float, of the float model's own text: an estimate of the divergence of the two."""
    exact, rounded = load("shakespeare"), load("shakespeare", quantize="int8")
    texts = decode(exact, ["\n"] * 32, Sample(), max_new_tokens=250, seed=4).tokens
    bits = [-np.nanmean(np.concatenate(score(m, texts))) / np.log(2) for m in (exact, rounded)]
    assert abs(bits[1] - bits[0]) < 0.02
    assert bits[0] != bits[1]


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_a_row_gets_the_same_bits_in_every_batch(cell):
    model = load(build.recurrent(cell, layers=2, hidden=24, vocab=40, seed=5), quantize="int8")
    ids = np.random.default_rng(0).integers(0, 40, (33, 12))
    whole = stepped(model, ids)
    for rows in (slice(0, 1), slice(5, 12), slice(32, 33)):
        np.testing.assert_array_equal(stepped(model, ids[rows]), whole[rows])


def test_tokens_do_not_depend_on_the_batch_or_the_workers():
    model = load("shakespeare", quantize="int8")
    prompts = ["ROMEO:", "JULIET:", "First Citizen:", "KING:", "A"]
    decoded = [
        decode(model, prompts, Sample(), max_new_tokens=60, seed=2, batch_size=size, workers=workers).tokens
        for size, workers in [(1, 1), (5, 1), (2, 2)]
    ]
    assert decoded[0] == decoded[1] == decoded[2]


def test_what_a_layer_is_given_may_be_of_any_size():
    """Rows have scales of their own: one with an input a thousand times larger does not blur the others."""
    proto = build.recurrent("LSTM", exposed=True, seed=3)
    exact, rounded = load(proto), load(proto, quantize="int8")
    ids = np.full((2, 1), 3)
    names = [exact._network.contract.logits.name]
    for large in (1.0, 1e4):
        start = np.array([[[0.01] * 8, [0.01 * large] * 8]], np.float32)
        feeds = {**exact._network.contract.feeds(ids), "h0": start, "c0": np.zeros_like(start)}
        expected, found = exact._network.session.run(feeds, names)[0], rounded._network.session.run(feeds, names)[0]
        np.testing.assert_allclose(found[0], expected[0], atol=0.03)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_describe_says_what_is_quantized(cell):
    text = load(build.recurrent(cell, layers=2), quantize="int8", executor="onnxruntime").describe()
    assert f"weights in int8: {cell} layer0, {cell} layer1, Gather embedded, MatMul" in text
    assert "int8 moves the logits" in text
    assert "one step a run" in text
    assert "int8" not in load(build.recurrent(cell), executor="onnxruntime").describe()


def test_describe_says_what_is_not():
    text = load(MODELS / "keras_tf_gru.onnx", quantize="int8").describe()
    assert re.search("in floating point: Loop .*what is inside it", text)


def test_a_quantized_model_is_saved_and_loads_again(tmp_path):
    first = load("shakespeare", quantize="int8", executor="onnxruntime")
    first.save(tmp_path / "int8.onnx")
    float_size = sum(a.nbytes for a in load("shakespeare")._graph.skeleton()[1].values())
    assert (tmp_path / "int8.onnx").stat().st_size < 0.3 * float_size
    second = load(tmp_path / "int8.onnx")
    ids = np.random.default_rng(0).integers(0, 65, (2, 20))
    np.testing.assert_array_equal(stepped(second, ids), stepped(first, ids))
    assert decode(second, "ROMEO:", Sample(), max_new_tokens=50, seed=1)[0].text == decode(first, "ROMEO:", Sample(), max_new_tokens=50, seed=1)[0].text  # fmt: skip


def test_a_window_is_quantized_saved_and_loads_again(tmp_path):
    roles = {"window": 6, "pad": "left"}
    first = load(MODELS / "torch_legacy_pooled_w6.onnx", roles=roles, quantize="int8")
    assert "weights in int8" in first.describe()
    first.save(tmp_path / "window.onnx")
    second = load(tmp_path / "window.onnx")
    assert second._network.contract.window == first._network.contract.window
    assert decode(second, [1, 2, 3], max_new_tokens=9).tokens == decode(first, [1, 2, 3], max_new_tokens=9).tokens


def test_a_file_quantized_by_onnxruntime_itself_loads(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = tmp_path / "theirs.onnx"
    quantization.quantize_dynamic(str(MODELS / "torch_dynamo_lstm2.onnx"), str(path))
    assert "DynamicQuantizeLSTM" in operators(path)
    exact, rounded = load(MODELS / "torch_dynamo_lstm2.onnx"), load(path)
    assert len(rounded._network.contract.states) == 4
    ids = np.random.default_rng(3).integers(0, exact.vocab_size, (4, 12))
    assert equivalence.difference(stepped(rounded, ids), stepped(exact, ids)) < 0.1


def gemm(**attributes):
    """Embedding, a Gemm of that with weights and a constant, and a GRU's step from it: states in and out."""
    rng = np.random.default_rng(0)
    transposed = attributes.get("transB", 0)
    weights = {
        "table": rng.standard_normal((7, 5)),
        "w": rng.standard_normal((5, 6)[:: -1 if transposed else 1]),
        "r": rng.standard_normal((6, 6)) / 3,
        "out": rng.standard_normal((6, 7)),
        "bias": rng.standard_normal(6),
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["x"]),
        helper.make_node("MatMul", ["h", "r"], ["rh"]),
        helper.make_node("Gemm", ["x", "w", attributes.pop("added")], ["a"], **attributes),
        helper.make_node("Add", ["rh", "a"], ["b"]),
        helper.make_node("Tanh", ["b"], ["h_out"]),
        helper.make_node("MatMul", ["h_out", "out"], ["logits"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "gemm",
        [
            helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("h", floats, ["batch", 6]),
        ],
        [
            helper.make_tensor_value_info("logits", floats, ["batch", 7]),
            helper.make_tensor_value_info("h_out", floats, ["batch", 6]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "attributes",
    [
        {"added": "bias"},
        {"added": ""},
        {"added": "bias", "transB": 1, "alpha": 0.5},
        {"added": "rh"},  # a term that is no constant
    ],
    ids=str,
)
def test_every_form_of_gemm(attributes):
    exact, rounded = load(gemm(**attributes)), load(gemm(**attributes), quantize="int8")
    assert "Gemm a" in rounded.describe().split("weights in int8")[1]
    ids = np.random.default_rng(3).integers(0, 7, (4, 12))
    assert 0 < equivalence.difference(stepped(rounded, ids), stepped(exact, ids)) < 0.1


def test_a_gemm_that_scales_what_it_adds_is_left():
    text = load(gemm(added="bias", beta=2.0), quantize="int8").describe()
    assert "in floating point: Gemm a" in text


def test_an_unknown_kind_is_refused_before_the_file_is_read():
    with pytest.raises(OptionError, match=r"quantize='int4': expected 'int8', or None"):
        load("nowhere.onnx", quantize="int4")


def test_nothing_to_quantize_is_said():
    with pytest.raises(
        OptionError,
        match=r"no weights that can be: GRU gru \(no float32 weights of one direction\), .*float16 of rank 2",
    ):
        load(MODELS / "hand_gru_float16.onnx", quantize="int8")


def test_contexts_keep_their_sizes_in_a_saved_model(tmp_path):
    load(MODELS / "torch_legacy_gru_context.onnx", quantize="int8").save(tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert [f.sizes for f in model._network.contract.contexts] == [f.sizes for f in load(MODELS / "torch_legacy_gru_context.onnx")._network.contract.contexts]  # fmt: skip
    assert json.loads(model._graph.metadata["decoding.roles"])["context"]
