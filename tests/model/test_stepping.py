"""decoding/model/stepping.py: which layouts are kept, and files that mean one token."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, decode, load
from decoding.model.verify.equivalence import stepped_run
from tests.helpers import build
from tests.helpers.exports import MODELS, fixture
from tests.helpers.text import proto

VOCAB = 6


def either_axis():
    """A state [4, 5] of which the file takes rows along either axis, and sums the other."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.uniform(-1, 1, (VOCAB, 1)).astype(np.float32),
        "out": rng.uniform(-1, 1, (1, VOCAB)).astype(np.float32),
        "one": np.array([1]),
        "zero": np.array([0]),
        "column": np.array([-1, 1]),
        "row": np.array([1, -1]),
    }

    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Shape", ["h"], ["size"], end=1),
        helper.make_node("Shape", ["ids"], ["rows"]),
        helper.make_node("Equal", ["size", "rows"], ["rows_first"]),
        helper.make_node("Where", ["rows_first", "column", "row"], ["spread"]),
        helper.make_node("Reshape", ["x", "spread"], ["spread_x"]),
        helper.make_node("Add", ["h", "spread_x"], ["h_out"]),
        helper.make_node("Where", ["rows_first", "one", "zero"], ["other"]),
        helper.make_node("ReduceSum", ["h_out", "other"], ["totals"], keepdims=0),
        helper.make_node("Reshape", ["totals", "column"], ["total"]),
        helper.make_node("MatMul", ["total", "out"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "either",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b"]), helper.make_tensor_value_info("h", TensorProto.FLOAT, [4, 5])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, VOCAB]), helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [4, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return build.model(graph)


def test_layouts_that_give_other_scores_are_asked_for():
    with pytest.raises(
        ModelError,
        match=r"which axis of a state counts rows cannot be told.*roles=\{'batch_axis': \{'h': 0\}\} or roles=\{'batch_axis': \{'h': 1\}\}",
    ):
        load(either_axis())
    ids = np.array([[1, 2, 3]])
    found = [load(either_axis(), roles={"batch_axis": {"h": axis}}) for axis in (0, 1)]
    scores = [stepped_run(model._network.session, model._network.contract, ids) for model in found]
    np.testing.assert_allclose(scores[0] * 4, scores[1] * 5, rtol=1e-5)  # sums of five numbers and of four


def test_rows_of_five_fixed_states_are_not_taken_for_layers():
    """States [1, 6, 2]: the axis of two layers was taken for the batch, as it ran first (issue 14)."""
    for exporter in ("legacy", "dynamo"):
        model = load(MODELS / f"torch_{exporter}_rwkv4_fixed.onnx", verify=False)
        assert [state.batch_axis for state in model._network.contract.states] == [0] * 5


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["lstm_step_first", "lstm_step_first_fixed", "lstm_step_squeeze", "lstm_step_squeeze_fixed"])  # fmt: skip
@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_a_file_that_declares_one_token_is_fed_one(exporter, name, verify):
    full = f"torch_{exporter}_{name}"
    _, pairs, roles = fixture(full)
    model = load(MODELS / f"{full}.onnx", roles=roles, verify=verify)
    assert not model._network.contract.sequence
    for ids, expected in pairs:
        np.testing.assert_allclose(
            stepped_run(model._network.session, model._network.contract, ids[None])[0], expected, atol=1e-5
        )


def test_a_file_that_declares_one_token_and_reads_several_rightly_is_fed_several():
    assert load(MODELS / "torch_legacy_lstm_states_t1.onnx")._network.contract.sequence


def test_a_declared_length_of_several_is_believed_where_stepping_differs():
    """Only a file of one token is tried with single ones: elsewhere a difference says that the states are paired wrongly."""
    with pytest.raises(ModelError, match="stepping differs from the whole-sequence run"):
        load(build.recurrent("GRU", layers=2, exposed=True), roles={"state": {"h0": "h1_out", "h1": "h0_out"}})


def test_wrong_pairs_are_found_in_a_file_of_one_token_that_reads_several():
    proto = build.recurrent("GRU", layers=2, exposed=True)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert load(proto)._network.contract.sequence
    with pytest.raises(
        ModelError, match=r"paired otherwise: pass roles=\{'state': \{'h0': 'h0_out', 'h1': 'h1_out'\}\}"
    ):
        load(proto, roles={"state": {"h0": "h1_out", "h1": "h0_out"}})


@pytest.mark.parametrize("rows", ["1", "batch"])
def test_one_hot_vectors_of_one_row_are_no_run_of_many_tokens(rows):
    """A cell that is exported for one one-hot vector [1, 5]: its width is no number of tokens."""
    weights = np.random.default_rng(5).normal(0, 1, (5, 4)).round(3)
    model = load(
        proto(f"""(float[{rows},5] x, float[{rows},4] h) => (float[{rows},5] y, float[{rows},4] h_out)
    <float[5,4] W = {{{", ".join(map(str, weights.ravel()))}}}> {{
      e = MatMul(x, W)
      sum = Add(e, h)
      h_out = Tanh(sum)
      V = Transpose(W)
      y = MatMul(h_out, V)
    }}""")
    )
    prompts = [[3], [0, 4, 2]]
    for prompt, found in zip(prompts, decode(model, prompts, max_new_tokens=5), strict=True):
        h, ids = np.zeros(4), list(prompt)
        for t in range(len(prompt) + 4):
            h = np.tanh(weights[ids[t]] + h)
            if t + 1 >= len(prompt):
                ids.append(int((weights @ h).argmax()))
        assert list(found.tokens) == ids[len(prompt) :]
