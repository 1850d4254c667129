"""Large weights stay outside the protobuf message: cut out of a file's bytes, moved out of a message, put back for a file."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from decoding import ModelError
from decoding.model.graph.external_weights import cut_weights, is_large, move_out, parse, put_back
from decoding.model.graph.graph import Graph
from tests.helpers.text import proto

LARGE = np.arange(1024, dtype=np.float32).reshape(32, 32)
SMALL = np.arange(4, dtype=np.float32)


def model(**weights):
    """A network with these initializers."""
    found = proto("(float[batch,32] x) => (float[batch,32] y) { y = MatMul(x, large) }")
    for name, value in weights.items():
        found.graph.initializer.append(numpy_helper.from_array(value, name))
    return found


def test_only_large_weights_are_cut_and_their_slices_hold_their_data():
    data = model(small=SMALL, large=LARGE).SerializeToString()
    skeleton, slices = cut_weights(data)
    assert len(skeleton) < 300
    assert list(slices) == [1]
    np.testing.assert_array_equal(np.frombuffer(data[slices[1]], np.float32), LARGE.ravel())
    small, empty = onnx.load_model_from_string(skeleton).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(small), SMALL)
    # Nothing marks it as one in a file: only the file itself could have said so (issue 13).
    assert (empty.name, list(empty.dims), empty.data_location) == ("large", [32, 32], TensorProto.DEFAULT)
    assert not empty.raw_data
    assert not empty.external_data


@pytest.mark.parametrize(
    ("data_type", "dims", "large"),
    [
        (TensorProto.FLOAT, [1024], True),
        (TensorProto.FLOAT, [1023], False),
        (TensorProto.INT8, [32, 32], True),
        (TensorProto.BFLOAT16, [4096], False),
        (TensorProto.STRING, [4096], False),
    ],
)
def test_which_weights_are_large(data_type, dims, large):
    assert is_large(data_type, dims) is large


@pytest.mark.parametrize(
    "data", [b"", b"no model at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x08\x01\x3a\x02\x08\x01"]
)
def test_bytes_that_are_no_model_are_left_as_they_are(data):
    assert cut_weights(data) == (data, {})


def test_truncated_files_are_refused():
    data = model(large=LARGE).SerializeToString()
    for end in range(1, len(data), 97):
        with pytest.raises(ModelError, match=r"^the bytes given: (?:not an ONNX|the tensor 'large' cannot be read)"):
            Graph.load(data[:end])


def test_a_weight_that_does_not_fill_its_shape():
    damaged = model(large=LARGE)
    damaged.graph.initializer[0].dims[0] = 33
    with pytest.raises(ModelError, match=r"the file: the tensor 'large' cannot be read: 4096 bytes for float32 numbers of the shape \[33, 32\]"):  # fmt: skip
        parse(damaged.SerializeToString(), "the file")


def test_weights_move_out_and_are_put_back():
    found = model(small=SMALL, large=LARGE)
    weights = move_out(found.graph, "the file", {})
    assert list(weights) == ["large"]
    assert len(found.SerializeToString()) < 300
    put_back(found.graph, weights)
    assert found == model(small=SMALL, large=LARGE)


def test_weights_that_are_outside_already_are_kept():
    found, weights = parse(model(large=LARGE).SerializeToString(), "the file")
    assert move_out(found.graph, "the file", weights)["large"] is weights["large"]


def test_weights_in_files_beside_the_model(tmp_path):
    onnx.save(model(small=SMALL, large=LARGE), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)  # fmt: skip
    graph = Graph.load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(graph.constant("large"), LARGE)
    np.testing.assert_array_equal(graph.constant("small"), SMALL)
    (tmp_path / "m.data").unlink()
    with pytest.raises(
        ModelError, match=r"m\.onnx: the external data of the tensor '.*' cannot be read: 'm\.data': No such file"
    ):
        Graph.load(tmp_path / "m.onnx")


def test_a_graph_with_weights_outside_runs_after_it_is_serialized():
    graph = Graph.load(model(large=LARGE))
    copy = graph.copy()
    assert copy.constant("large") is graph.constant("large")
    x = np.ones((2, 32), np.float32)
    np.testing.assert_allclose(ort.InferenceSession(copy.serialize()).run(None, {"x": x})[0], x @ LARGE)
