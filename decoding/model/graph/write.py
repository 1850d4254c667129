"""A model as bytes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from google.protobuf.message import DecodeError as ProtobufError

from decoding.errors import ModelError
from decoding.model.graph import external_weights
from decoding.model.graph.types import Array


def whole(model: onnx.ModelProto, weights: Mapping[str, Array], name: str) -> bytes:
    """Return all of a model, with the large weights that are kept outside of it.

    Raises:
        ModelError: it is over protobuf's limit of 2 GiB.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    external_weights.put_back(copy.graph, weights)
    try:
        return bytes(copy.SerializeToString())
    except (ValueError, ProtobufError) as error:
        raise ModelError(f"{name}: cannot be serialized: {error}") from error


def skeleton(model: onnx.ModelProto) -> bytes:
    """Return a model without its large weights.

    Every size of an input that has neither a number nor a name gets a unique name in the bytes: otherwise onnxruntime
    makes one up at every node after it, in time that grows with the square of their number (issue 13).
    """
    unnamed = [
        (dim, f"decoding/{port.name}/{axis}")
        for port in model.graph.input
        for axis, dim in enumerate(port.type.tensor_type.shape.dim)
        if dim.WhichOneof("value") is None
    ]
    for dim, name in unnamed:
        dim.dim_param = name
    try:
        return bytes(model.SerializeToString())
    finally:
        for dim, _ in unnamed:
            dim.ClearField("dim_param")
