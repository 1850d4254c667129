"""Helpers that read and edit ONNX's protobuf messages without importing onnx."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from decoding.model.graph.types import Port

# NumPy's dtype for each TensorProto.DataType that has one.
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
           10: "float16", 11: "float64", 12: "uint32", 13: "uint64"}  # fmt: skip
# For each AttributeProto.AttributeType the field that holds the value.
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs"}


def read_port(value: Any) -> Port:
    """A ValueInfoProto as a Port; its dtype is object where NumPy has none for the element type.

    Some exporters write -1 for a size that they do not know, and onnxruntime reads any size below 0 so.
    """
    tensor = value.type.tensor_type
    dtype = np.dtype(DTYPES.get(tensor.elem_type, object))
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    dims = (d.dim_value if d.HasField("dim_value") else _named_size(d.dim_param) for d in tensor.shape.dim)
    return Port(value.name, dtype, tuple(None if isinstance(d, int) and d < 0 else d for d in dims))


def _named_size(name: str) -> int | str | None:
    """A dimension's name; a number where the name is one: transformers' exporter writes fixed sizes so."""
    return int(name) if re.fullmatch("[0-9]{1,18}", name) else name or None


def attribute_value(attribute: Any) -> Any:
    """An AttributeProto's value; None where its kind is unknown."""
    field = _FIELDS.get(attribute.type)
    if field is None:
        return None
    value = getattr(attribute, field)
    return list(value) if field.endswith("s") and field != "s" else value


def retain(field: Any, keep: Any) -> None:
    """Keep only those entries of a repeated field for which `keep` is true."""
    kept = [item for item in field if keep(item)]
    if len(kept) < len(field):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename tensors in a body and in the bodies inside it."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for proto in graph.node:
        for field in (proto.input, proto.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for attribute in proto.attribute:
            for body in (attribute.g, *attribute.graphs):
                rename(body, names)
                for value in body.output:
                    value.name = names.get(value.name, value.name)
