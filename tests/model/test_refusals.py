"""Files and arguments that `load()` refuses, and what it says of them."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, OptionError, load
from tests.helpers import build

CELLS = ["LSTM", "GRU", "RNN"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bos", 11),
        ("bos", "x"),
        ("pad", -1),
        ("eos", [2, 11]),
        ("eos", 1.5),
        ("max_new_tokens", 0),
        ("max_new_tokens", True),
    ],
)
def test_metadata_out_of_range_is_named(key, value):
    with pytest.raises(ModelError, match=rf"metadata 'decoding.{key}' is .*expected a whole number from"):
        load(build.recurrent(metadata={f"decoding.{key}": value}))


def test_logits_that_are_always_nan_are_not_called_verified():
    model = load(build.recurrent(bias=[np.nan] + [0.0] * 10))
    assert "not verified: the logits are NaN" in model.describe()


def test_no_such_file(tmp_path):
    with pytest.raises(ModelError, match=rf"{re.escape(str(tmp_path))}: a folder; pass the path of an .onnx file"):
        load(tmp_path)
    for what in (load(build.recurrent()), 3, None):
        with pytest.raises(
            OptionError, match=rf"encoder: found {type(what).__name__}; expected the path of an .onnx file"
        ):
            load(what)
    with pytest.raises(OptionError, match=r"model or encoder: found int; expected the path"):
        load(build.recurrent(), encoder=3)
    with pytest.raises(ModelError, match=r"nowhere/model.onnx: no such file; pass the path"):
        load("nowhere/model.onnx")
    with pytest.raises(
        ModelError, match=r"hamlet: no such file, and no shipped model of that name; shipped are .*shakespeare"
    ):
        load("hamlet")


@pytest.mark.parametrize("data", [b"", b"not a model at all\n", bytes(range(256)) * 4])
def test_not_an_onnx_file(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"m\.onnx: not an ONNX"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file(tmp_path, share):
    data = build.recurrent().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"m\.onnx: .*(truncated|export or copy it again)"):
        load(tmp_path / "m.onnx")


def test_a_cnn():
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["scores"]),
        ],
        "cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4, 1, 1])],
        [weights],
    )
    with pytest.raises(
        ModelError, match=r"no input takes token ids.*image float32\[n, 3, 8, 8\].*Conv, GlobalAveragePool.*roles="
    ):
        load(build.model(graph))


def test_a_network_without_states():
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["all"]),
            helper.make_node("Gather", ["all", "last"], ["logits"], axis=1),
        ],
        "bigram",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 5])],
        [numpy_helper.from_array(np.eye(5, dtype=np.float32), "table"), numpy_helper.from_array(np.array(-1), "last")],
    )
    with pytest.raises(
        ModelError,
        match=r"no recurrent state: neither an LSTM, GRU or RNN layer, .* reads only one",
    ):
        load(build.model(graph))


@pytest.mark.parametrize("direction", ["bidirectional", "reverse"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_that_reads_from_the_end(cell, direction):
    with pytest.raises(ModelError, match=rf"the {cell} layer 'layer0' is {direction}: .*encoder"):
        load(build.recurrent(cell, direction=direction))


def test_wrong_states_are_found_out_by_verification():
    with pytest.raises(ModelError, match=r"stepping differs from the whole-sequence run by .*h0, h1"):
        load(build.recurrent("GRU", layers=2, exposed=True), roles={"state": {"h0": "h1_out", "h1": "h0_out"}})


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"tokens": "tokens"}, r"unknown key 'tokens'; expected some of token, logits"),
        ({"token": "ids"}, r"roles\['token'\]: .* has no 'ids' there; it has tokens"),
        ({"logits": "y"}, r"roles\['logits'\]: .* has no 'y' there"),
        ({"state": {"h0": "nope"}}, r"roles\['state'\]: .* has no 'nope' there"),
        ({"output": "odds"}, r"roles\['output'\]='odds': expected 'logits', 'probs' or 'logprobs'"),
    ],
)
def test_roles_that_do_not_fit_are_refused(roles, message):
    with pytest.raises(OptionError, match=message):
        load(build.recurrent(exposed=True), roles=roles)


def test_an_input_that_nothing_uses():
    proto = build.recurrent("GRU", exposed=True)
    proto.graph.input.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, [1, "batch", 8]))
    with pytest.raises(ModelError, match=r"the input c0 is used by nothing.*export again with two tensors"):
        load(proto)


def test_a_provider_that_is_not_there():
    with pytest.raises(ModelError, match=r"TensorrtExecutionProvider is not in this onnxruntime.*providers='cpu'"):
        load(build.recurrent(), providers=["TensorrtExecutionProvider"])


@pytest.mark.parametrize("threads", [0, -1, 1025, 5000, 2**40, True, 1.0, "2", [1], np.array([1, 2])])
def test_wrong_thread_counts(threads):
    with pytest.raises(OptionError, match=r"threads=.*: expected a whole number from 1 to 1024, or None"):
        load(build.recurrent(), threads=threads)


@pytest.mark.parametrize("providers", [1, [], (), {"cpu": {}}, [1], [None], [("cpu",)], [("cpu", 1)], [("cpu", {1: 2})], np.array(["cpu", "cpu"]), np.int64(3)])  # fmt: skip
def test_providers_that_are_no_names(providers):
    with pytest.raises(OptionError, match=r"providers=.*: expected 'cpu', 'cuda', or a list of onnxruntime's names"):
        load(build.recurrent(), providers=providers)


def test_metadata_that_is_no_json():
    proto = build.recurrent()
    helper.set_model_props(proto, {"decoding.roles": "{token"})
    with pytest.raises(ModelError, match=r"metadata 'decoding.roles' is not JSON"):
        load(proto)


def test_a_node_that_needs_its_own_result():
    proto = build.recurrent("GRU")
    proto.graph.node[0].input[1] = "logits"
    with pytest.raises(ModelError, match="needs its own result"):
        load(proto)


def test_names_that_are_no_text():
    data = build.recurrent("GRU").SerializeToString()
    with pytest.raises(ModelError, match=r"damaged.*no UTF-8"):
        load(data.replace(b"embedded", b"embedde\xff"))


def test_weights_that_do_not_fill_their_shape():
    proto = build.recurrent("GRU")
    next(t for t in proto.graph.initializer if t.name == "R0").dims[1] += 1
    with pytest.raises(ModelError, match="'R0' cannot be read"):
        load(proto)


def test_messages_of_onnxruntime_name_no_place_in_its_source():
    proto = build.recurrent("GRU")
    layer = next(node for node in proto.graph.node if node.op_type == "GRU")
    layer.attribute.append(helper.make_attribute("activations", ["Sigmoid", "NoSuch"]))
    with pytest.raises(ModelError) as refused:
        load(proto)
    assert not re.search(r"\.(cc|h):|onnxruntime_src", str(refused.value))


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("shown", ["steps", "both", "states", "sorted"])
def test_an_encoder_alone_is_no_language_model(cell, shown):
    """What a layer itself gives is no scores, though its hidden size would do for a vocabulary, and however it is called."""
    proto = build.recurrent(cell, vocab=8, hidden=8)
    graph, node = proto.graph, helper.make_node
    last = ["last_h", "last_c"][: 1 + (cell == "LSTM")]
    layer = next(n for n in graph.node if n.op_type == cell)
    layer.output[1:] = last
    nodes = [n for n in graph.node if n.op_type not in ("MatMul", "Add")]
    gives = {"steps": ["back"], "both": ["back", "last_h"], "states": last, "sorted": ["unsorted"]}[shown]
    if shown == "sorted":  # as torch packs sequences
        graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
        nodes.append(node("Shape", ["tokens"], ["shape"]))
        nodes.append(node("Gather", ["shape", "axis"], ["rows"]))
        nodes.append(node("Gather", ["back", "rows"], ["unsorted"]))
    names = ["output", "hidden"][: len(gives)]
    nodes += [node("Identity", [given], [name]) for given, name in zip(gives, names, strict=True)]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None, 8]) for name in names)
    with pytest.raises(ModelError, match=r"it is an encoder: its outputs output .*load\(decoder, encoder=...\)"):
        load(proto)
    if shown in ("steps", "both"):
        assert load(proto, roles={"logits": "output"}).vocab_size == 8


def test_a_name_that_no_file_has_is_refused():
    with pytest.raises(ModelError, match="no such file"):
        load("x" * 5000 + ".onnx")


def test_an_error_that_both_ways_have_is_said_once():
    proto = build.recurrent("GRU")
    proto.graph.node.append(helper.make_node("NoSuchOperator", ["logits"], ["more"]))
    proto.graph.output[0].name = "more"
    with pytest.raises(ModelError) as caught:
        load(proto)
    assert str(caught.value).count("cannot run it") == 1
