"""Ports as protobuf messages declare them."""

import pytest
from onnx import TensorProto, helper

from decoding.model.graph.protobuf import read_port


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (["batch", 4], ("batch", 4)),
        (["s44", "32", "04"], ("s44", 32, 4)),  # transformers' exporter writes fixed sizes as names
        (["s36 + 1", "", -1], ("s36 + 1", None, None)),
        (["9" * 30, "²"], ("9" * 30, "²")),  # no size that a tensor has, and a digit that is none of a number
    ],
)
def test_dimensions(dims, shape):
    assert read_port(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)).shape == shape
