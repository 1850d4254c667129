"""Which graphs the native step runs, what it says of the others, and that it equals onnxruntime."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import Beam, Greedy, ModelError, OptionError, decode, load, score
from decoding.model.native import step as native_step
from decoding.model.native.step import differences
from decoding.model.verify import equivalence
from tests.helpers import build
from tests.helpers.exports import MODELS, fixture, fixtures

# Of the fixtures that are stepped: how many run natively, at least.
QUALIFY = 151
# What is in the way of the others, as the messages name it.
IN_THE_WAY = r"in the way is (?!LSTM|GRU|RNN)([\w.]+|the state|the attention) "


@pytest.fixture(scope="module")
def tried():
    return []


@pytest.fixture(scope="module")
def counted():
    return []


@pytest.mark.parametrize("name", fixtures("step"))
def test_fixtures_run_natively_or_say_what_is_in_the_way(name, tried, counted):
    tried.append(name)
    entry, pairs, roles = fixture(name)
    try:
        exact = load(MODELS / f"{name}.onnx", roles=roles, executor="onnxruntime")
    except ModelError:
        pytest.skip("refused, as test_fixtures.py accepts")
    if exact._network.contract.window is not None:
        with pytest.raises(ModelError, match="whole windows"):
            load(MODELS / f"{name}.onnx", roles=roles, executor="native")
        return
    try:
        model = load(MODELS / f"{name}.onnx", roles=roles, executor="native")
    except ModelError as error:
        if re.search(IN_THE_WAY, str(error)):
            return
        raise
    counted.append(name)
    assert model.executor == "native"
    assert "on the native step" in model.describe()
    for ids, expected in pairs:
        logits = equivalence.stepped_run(model._network.step_session, model._network.contract, ids[None])[0]
        found = equivalence.as_kind(logits.astype(np.float64), entry["output"])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=max(entry["tolerance"], 1e-5))
        if model._network.contract.sequence and model._network.contract.logits.layout != "BV":
            whole = equivalence.whole_run(model._network.read_session, model._network.contract, ids[None])[0]
            np.testing.assert_array_equal(whole[-1], logits[-1])


def test_as_many_fixtures_qualify_as_documented(tried, counted):
    if len(tried) < len(fixtures("step")):
        pytest.skip(f"{len(tried)} fixtures were tried in this process")  # xdist spreads them
    assert len(counted) >= QUALIFY


@pytest.mark.parametrize("name", ["shakespeare", "tang"])
def test_shipped_models_run_natively(name):
    model = load(name, executor="native")
    (found,), (expected,) = (
        decode(m, [[1, 2, 3]], Greedy(), max_new_tokens=40) for m in (model, load(name, executor="onnxruntime"))
    )
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(found.logprob, expected.logprob, rtol=1e-5)


def test_the_first_operator_in_the_way_is_named():
    with pytest.raises(ModelError, match=r"dates.onnx: executor='native': in the way is the attention over a source"):
        load("dates", executor="native")


@pytest.mark.parametrize("cell", build.CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_random_states_and_prefixes_equal_onnxruntime(cell, layers):
    proto = build.recurrent(cell, hidden=33, layers=layers, vocab=19, seed=layers, scale=0.2)
    model = load(proto, executor="native")
    assert max(differences(model._network.session, model._network.step_session, model._network.contract)) < 1e-5


def stacked(*, residual, between=None):
    """Embedding (scaled), two GRU layers, a linear layer below the tied output; ids [batch, 1].

    Args:
        residual: what enters the second layer is added to what it gives.
        between: an operator after the first layer.
    """
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        return numpy_helper.from_array(rng.uniform(-0.5, 0.5, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Mul", ["embedded", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["x"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["x", "W0", "R0", "", "", "h0"], ["y0", "h0_out"], hidden_size=6),
        helper.make_node("Squeeze", ["y0", "one"], ["s0"]),
        helper.make_node(between or "Identity", ["s0"], ["x1"], name="between"),
        helper.make_node(
            "GRU", ["x1", "W1", "R1", "B1", "", "h1"], ["y1", "h1_out"], hidden_size=6, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["y1", "one"], ["s1"]),
        *([helper.make_node("Add", ["s1", "x1"], ["sum"])] if residual else []),
        helper.make_node("Transpose", ["sum" if residual else "s1"], ["rows"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["rows", "P"], ["projected"]),
        helper.make_node("Transpose", ["table"], ["tied"], perm=[1, 0]),
        helper.make_node("MatMul", ["projected", "tied"], ["logits"]),
    ]
    weights = [weight("table", 9, 4), weight("W0", 1, 18, 4), weight("R0", 1, 18, 6), weight("W1", 1, 18, 6), weight("R1", 1, 18, 6),
               weight("B1", 1, 36), weight("P", 6, 4), numpy_helper.from_array(np.array([1]), "one"),
               numpy_helper.from_array(np.float32(2.5), "scale")]  # fmt: skip
    states = [(name, TensorProto.FLOAT, [1, "batch", 6]) for name in ("h0", "h1", "h0_out", "h1_out")]
    ins = [("tokens", TensorProto.INT64, ["batch", 1]), *states[:2]]
    outs = [("logits", TensorProto.FLOAT, ["batch", 1, 9]), *states[2:]]
    graph = helper.make_graph(
        nodes, "stacked", *([helper.make_tensor_value_info(*p) for p in ports] for ports in (ins, outs)), weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("residual", [False, True])
def test_residual_connections_projections_and_tied_weights(residual):
    model = load(stacked(residual=residual), executor="native")
    assert max(differences(model._network.session, model._network.step_session, model._network.contract)) < 1e-5


@pytest.mark.parametrize("residual", [False, True])
def test_an_activation_between_layers_is_a_dense_layer(residual):
    model = load(stacked(residual=residual, between="Tanh"), executor="native")
    assert max(differences(model._network.session, model._network.step_session, model._network.contract)) < 1e-5


@pytest.mark.parametrize("name", ["a dense layer", "torch_dynamo_lstmp_cells"])
def test_beams_move_states_of_every_shape(name):
    """A dense layer has no state, and the h of a projected layer is smaller than its c."""
    dense = name == "a dense layer"
    given, roles = (
        (stacked(residual=False, between="Tanh"), {}) if dense else (MODELS / f"{name}.onnx", fixture(name)[2])
    )
    native, exact = (load(given, roles=roles, executor=executor) for executor in ("native", "onnxruntime"))
    options = {"max_new_tokens": 30, "num_return_sequences": 6, "eos_token_id": None}
    for prompts in ([[1], [2, 3], [4]], [[5, 1]]):
        found, expected = (decode(model, prompts, Beam(num_beams=6), **options) for model in (native, exact))
        assert found.tokens == expected.tokens
        np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-5)


def test_another_operator_between_layers_is_named():
    with pytest.raises(ModelError, match="in the way is Softmax between;"):
        load(stacked(residual=False, between="Softmax"), executor="native")


def test_a_difference_from_onnxruntime_is_refused(monkeypatch):
    monkeypatch.setattr(native_step, "differences", lambda *_: (3e-3, 0.0))
    with pytest.raises(ModelError, match=r"a difference from onnxruntime's scores and states: 3\.0e-03"):
        load("shakespeare", executor="native")
    model = load("shakespeare")
    assert model.executor == "onnxruntime"
    assert "in the way of the native step is a difference from onnxruntime's" in model.describe()


def test_a_drift_over_prefixes_is_refused(monkeypatch):
    monkeypatch.setattr(native_step, "differences", lambda *_: (0.0, 1e-3))
    with pytest.raises(ModelError, match=r"1\.0e-03 over random prefixes, more than 1e-04"):
        load("shakespeare", executor="native")


def test_wrong_values_of_executor():
    with pytest.raises(OptionError, match="executor='fast': expected 'native', 'onnxruntime', or None"):
        load("shakespeare", executor="fast")
    assert load("shakespeare", executor="onnxruntime").executor == "onnxruntime"


@pytest.mark.parametrize(
    ("options", "hidden", "executor", "reason"),
    [
        ({}, 16, "native", None),
        ({"threads": 1}, 16, "native", None),
        ({"threads": 2}, 16, "onnxruntime", "onnxruntime runs it: threads=2 are onnxruntime's"),
        ({"providers": "cpu"}, 16, "native", None),
        ({"quantize": "int8"}, 16, "native", None),
        ({}, 1300, "onnxruntime", "a step multiplies 51 MiB of weights"),
        ({"threads": 1}, 1300, "native", None),
        ({"quantize": "int8"}, 1300, "native", None),
        ({"executor": "native"}, 1300, "native", None),
        ({"executor": "native", "threads": 2}, 16, "native", None),
    ],
)
def test_the_executor_follows_from_the_size_and_the_arguments(options, hidden, executor, reason):
    model = load(build.recurrent("LSTM", hidden=hidden, vocab=9, scale=0.05), verify=False, **options)
    assert model.executor == executor
    said = [line for line in model.describe().splitlines() if "onnxruntime runs it" in line]
    assert [reason in line for line in said] == ([True] if reason else [])


def test_a_graph_that_the_native_step_does_not_run_is_left_to_onnxruntime():
    model = load(stacked(residual=False, between="Softmax"))
    assert model.executor == "onnxruntime"
    assert "note: onnxruntime runs it: in the way of the native step is Softmax between" in model.describe()


def test_run_opens_onnxruntime_again():
    native, exact = (load("shakespeare", executor=executor) for executor in (None, "onnxruntime"))
    assert native.executor == "native"
    feeds = {"tokens": np.array([[1, 2, 3]])}
    for (name, a), (_, b) in zip(native.run(feeds).items(), exact.run(feeds).items(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_other_weights_are_packed_again():
    proto = build.recurrent("GRU", hidden=16, vocab=9)
    model = load(proto, executor="native")
    table = np.random.default_rng(3).normal(size=(9, 16)).astype(np.float32)
    other = model.with_weights({"table": table})
    assert other.executor == "native"
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in changed.graph.initializer:
        if tensor.name == "table":
            tensor.CopyFrom(onnx.numpy_helper.from_array(table, "table"))
    expected = load(changed, executor="native")
    sequences = [[1, 2, 3, 4], [5, 6]]
    for a, b in zip(score(other, sequences), score(expected, sequences), strict=True):
        np.testing.assert_array_equal(a, b)
    with np.testing.assert_raises(AssertionError):
        np.testing.assert_array_equal(score(model, sequences)[0], score(other, sequences)[0])


def test_int8_runs_natively_and_says_how_far_it_moves_the_logits():
    model = load("shakespeare", executor="native", quantize="int8")
    assert model.executor == "native"
    assert "its int8 weights move the logits by at most" in model.describe()
    assert decode(model, [[1]], Greedy(), max_new_tokens=5)


def test_a_saved_model_is_the_graph(tmp_path):
    load("shakespeare", executor="native").save(tmp_path / "steps.onnx")
    assert load(tmp_path / "steps.onnx", executor="onnxruntime").executor == "onnxruntime"
    assert load(tmp_path / "steps.onnx").executor == "native"
