"""decoding/model/discriminator.py: a classifier of whole sequences, alone and as the reward of rollout()."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import Discriminator, ModelError, OptionError, load, rollout
from tests.helpers import build


@pytest.fixture(scope="module")
def policy():
    return load(build.recurrent("GRU", layers=2, scale=0.7, seed=3))


def discriminator(classes=1, *, dtype=TensorProto.INT64, final="Sigmoid", extra=False):
    """Embedding, mean over time, linear: ids [batch, time] in, scores out."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.standard_normal((11, 6)).astype(np.float32),
        "out": rng.standard_normal((6, classes)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["ids"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "whole"], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "out"], ["product"]),
        helper.make_node(final, ["product"], ["probability"]),
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", classes])]
    if extra:
        outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 6]))
    inputs = [helper.make_tensor_value_info("ids", dtype, ["batch", "time"])]
    proto = build.model(
        helper.make_graph(nodes, "d", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    )

    def scores(ids):
        product = weights["table"][np.asarray(ids)].mean(1) @ weights["out"]
        return 1 / (1 + np.exp(-product)) if final == "Sigmoid" else np.exp(product) / np.exp(product).sum(1)[:, None]

    return proto, scores


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT])
def test_a_discriminator_in_a_file(policy, tmp_path, dtype):
    proto, scores = discriminator(dtype=dtype)
    onnx.save(proto, tmp_path / "d.onnx")
    sequences = np.random.default_rng(1).integers(0, 11, (4, 6))
    expected = rollout(policy, sequences, scores, n=3, seed=1)
    for reward in (
        tmp_path / "d.onnx",
        str(tmp_path / "d.onnx"),
        proto,
        proto.SerializeToString(),
        Discriminator(proto),
    ):
        values = rollout(policy, sequences, reward, n=3, seed=1)
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_discriminator_with_classes():
    proto, scores = discriminator(2, final="Softmax", extra=True)
    ids = np.random.default_rng(1).integers(0, 11, (4, 6))
    for label in range(2):
        given = Discriminator(proto, token="ids", score="probability", label=label)
        np.testing.assert_allclose(given(ids), scores(ids)[:, label], atol=1e-6)
    with pytest.raises(ModelError, match=r"which output is the score\? It has probability.*; mean"):
        Discriminator(proto)
    with pytest.raises(OptionError, match=r"score='scores': .* has no such output; it has probability"):
        Discriminator(proto, score="scores")
    with pytest.raises(ModelError, match=r"has 2 classes; say whose score .*label=\.\.\.\), from 0 to 1"):
        Discriminator(proto, score="probability")(ids)


def test_a_model_that_is_no_discriminator():
    with pytest.raises(ModelError, match=r"the output logits has shape \[4, 6, 11\] for 4 sequences"):
        Discriminator(build.recurrent())(np.zeros((4, 6), np.int64))
    with pytest.raises(ModelError, match="besides the token tokens it needs h0"):
        Discriminator(build.recurrent("GRU", exposed=True), token="tokens", score="logits")
