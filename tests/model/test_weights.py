"""decoding/model/weights.py: `Model.with_weights()` equals loading the file with these weights."""

import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from decoding import ModelError, OptionError, Sample, decode, load
from decoding.model.passes import fold_embedding
from decoding.model.verify import equivalence
from tests.helpers import build
from tests.helpers.exports import MODELS, SYSTEMS, fixture, fixtures

IDS = np.random.default_rng(0).integers(0, 11, (3, 7))


def arrays(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def changed(proto, seed=5):
    """Other values for every weight of a model: its floating-point initializers."""
    rng = np.random.default_rng(seed)
    return {
        name: (value * rng.uniform(0.8, 1.2, value.shape) + 0.01).astype(value.dtype)
        for name, value in arrays(proto).items()
        if value.dtype.kind == "f" and value.size > 1
    }


def rewritten(proto, weights):
    """The file as it would be with these weights."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return copy


def assert_same(a, b, ids=IDS):
    assert_same_networks(a._network, b._network, ids)


def assert_same_networks(a, b, ids=IDS):
    for which in ("session", "step_session"):
        runs = [equivalence.stepped_run(getattr(network, which), network.contract, ids) for network in (a, b)]
        np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_layers_and_the_table_that_is_folded_from_them(cell, exposed, layers, narrow, monkeypatch):
    if narrow:  # fold these small layers too
        monkeypatch.setattr(fold_embedding, "SMALLEST_HIDDEN", 1)
    proto = build.recurrent(cell, layers=layers, exposed=exposed)
    model, weights = load(proto, executor="onnxruntime"), changed(proto)
    other = model.with_weights(weights)
    assert (other._network.step_session is not other._network.session) == (narrow and cell != "RNN")
    assert_same(other, load(rewritten(proto, weights), executor="onnxruntime"))
    assert_same(model, load(proto, executor="onnxruntime"))  # the first is as it was
    one = {"bias": weights["bias"]}
    assert_same(other.with_weights({"bias": arrays(proto)["bias"]}).with_weights(one), other)
    assert_same_networks(other._network.single_threaded(), other._network)


@pytest.mark.parametrize("vocab", [11, 3000])  # with a table of embedding and input weights, and without
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_the_native_step(cell, vocab):
    proto = build.recurrent(cell, layers=2, vocab=vocab, exposed=True)
    model, weights = load(proto, executor="native"), changed(proto)
    other = model.with_weights(weights)
    assert other.executor == "native"
    assert_same(other, load(rewritten(proto, weights), executor="native"))
    assert_same(model, load(proto, executor="native"))
    assert_same_networks(other._network.single_threaded(), other._network)


@pytest.mark.parametrize("name", fixtures("step"))
def test_real_exports(name):
    _, pairs, roles = fixture(name)
    proto = onnx.load(MODELS / f"{name}.onnx")
    try:
        model = load(proto, roles=roles)
    except ModelError:
        pytest.skip("refused, as tests/model/test_fixtures.py accepts")
    if model._network.contract.window is not None:
        pytest.skip("a window of prefixes, as tests/model/test_fixtures.py accepts")
    weights = changed(proto)
    if not weights:
        pytest.skip("it has no weight in its main graph: they are in the branches of an If")
    expected = load(rewritten(proto, weights), roles=roles)
    try:
        other = model.with_weights(weights)
    except OptionError as error:  # of an output that is not decoded: it makes no difference
        unread = set(re.findall(r"'(.+?)'", str(error)))
        other = model.with_weights({key: value for key, value in weights.items() if key not in unread})
    assert_same(other, expected, pairs[-1][0][None])
    for a, b in zip(other._network.contract.states, expected._network.contract.states, strict=True):
        np.testing.assert_array_equal(a.initial, b.initial)


def test_a_window_of_prefixes():
    proto = onnx.load(MODELS / "torch_legacy_pooled_w6.onnx")
    roles = {"window": 6, "pad": "left"}
    weights = changed(proto)
    options = {"max_new_tokens": 8, "num_return_sequences": 5, "seed": 1}
    found = decode(load(proto, roles=roles).with_weights(weights), [[1, 2]], Sample(), **options)
    assert found.tokens == decode(load(rewritten(proto, weights), roles=roles), [[1, 2]], Sample(), **options).tokens
    assert found.tokens != decode(load(proto, roles=roles), [[1, 2]], Sample(), **options).tokens


def test_an_initial_state_that_is_learned_is_computed_anew_and_kept():
    proto = onnx.load(MODELS / "torch_legacy_lstm_learned_init.onnx")
    model, weights = load(proto), changed(proto)
    starts = {name: weights[name] for name in weights if name in model._file.starting}
    others = {name: weights[name] for name in weights if name not in starts}
    assert starts
    assert others
    both = model.with_weights(starts).with_weights(others)
    assert not np.array_equal(both._network.contract.states[0].initial, model._network.contract.states[0].initial)
    assert_same(both, load(rewritten(proto, weights)), IDS % 9)


def test_first_states_that_the_graph_computes_from_a_context():
    proto = onnx.load(SYSTEMS / "caption_start.onnx")
    weights = changed(proto)
    model, expected = load(proto).with_weights(weights), load(rewritten(proto, weights))
    (aux,) = model._network.contract.initial_state_graph.auxiliary_inputs
    context = np.random.default_rng(0).standard_normal((2, *aux.sizes)).astype(aux.dtype)
    options = {"context": {aux.name: context}, "max_new_tokens": 6, "eos_token_id": None, "logprobs": 2}
    a, b = (decode(m, [[1], [2]], **options) for m in (model, expected))
    np.testing.assert_array_equal([h.token_logprobs for h in a], [h.token_logprobs for h in b])
    before = decode(load(proto), [[1], [2]], **options)
    assert not np.allclose([h.token_logprobs for h in a], [h.token_logprobs for h in before])


def test_the_arrays_are_copied():
    proto = build.recurrent("LSTM")
    weights = changed(proto)
    model = load(proto).with_weights(weights)
    for value in weights.values():
        value[...] = 0
    assert_same(model, load(rewritten(proto, changed(proto))))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"tabel": np.zeros((11, 8), np.float32)}, "no initializer 'tabel'; did you mean 'table'.*'W0', 'R0', 'B0'"),
        ({"table": np.zeros((8, 11), np.float32)}, r"weights\['table'\]: float32 of shape \[8, 11\]; .* \[11, 8\]"),
        ({"table": np.zeros((11, 8))}, r"float64 of shape \[11, 8\]; the file has float32"),
        ({"table": [[1.0], [2.0, 3.0]]}, r"weights\['table'\]: list is no array"),
        ([np.zeros(3)], "weights: list; expected a dict"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(OptionError, match=message):
        load(build.recurrent("LSTM")).with_weights(weights)


def test_a_weight_that_loading_has_settled_is_refused():
    model = load(MODELS / "hand_if_hidden.onnx")
    with pytest.raises(OptionError, match=r"nothing that .* runs reads 'cond0'"):
        model.with_weights({"cond0": np.array(True)})


def test_an_int8_model_has_other_weights():
    proto = build.recurrent("LSTM")
    with pytest.raises(OptionError, match="were turned into int8; load it without quantize="):
        load(proto, quantize="int8").with_weights(changed(proto))
