"""Large weights kept outside an ONNX model's protobuf message, as NumPy arrays.

Copies of a graph share them, sessions take them without a copy, and protobuf never reads them: of a file of 100 MB it
parses a few kilobytes. `cut_weights` finds the large weights in the bytes of a file, `move_out` takes them from a
message in memory, and `put_back` puts them back before the message is written to a file. `external_data.py` reads the
files in which exporters put weights beside a model.

onnxruntime needs a weight that is kept outside to be marked as if it were in another file. `move_out` makes that
mark, after `external_data.py` has followed or refused every such mark that the file itself has (issue 13).

Protobuf encodes a message as a sequence of fields. Each field of the kind used here is a tag (the field's number and
kind), a length, and that many bytes. A weight is field 9 (raw_data) of a tensor in field 5 (initializer) of field 7
(graph).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from mmap import mmap

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from decoding.errors import ModelError
from decoding.model.graph.types import Array

# A weight of at least this many numbers of one of these types is kept outside.
_LARGE = 1024
_PLAIN = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.INT8})  # fmt: skip

_GRAPH, _INITIALIZER, _DATA_TYPE, _RAW_DATA = 7, 5, 2, 9


def is_large(data_type: int, dims: Sequence[int]) -> bool:
    """Return whether a weight of this TensorProto.DataType and shape is kept outside."""
    return data_type in _PLAIN and prod(dims) >= _LARGE


def stub(name: str, data_type: int, dims: Sequence[int]) -> TensorProto:
    """The initializer that declares a weight kept outside."""
    tensor = TensorProto(name=name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="in memory")
    return tensor


def parse(data: bytes | mmap, name: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model in a file's bytes and its large weights, which are copied once.

    Raises:
        ModelError: the bytes are no ONNX model, or a weight does not fit its shape or the memory.
    """
    with memoryview(data) as view:
        skeleton, slices = cut_weights(view)
        try:
            model = onnx.load_model_from_string(skeleton)
        except Exception as error:
            raise ModelError(
                f"{name}: not an ONNX file, or a truncated one ({len(data)} bytes, {error}); export or copy it again"
            ) from error
        weights = {}
        for index, part in slices.items():
            tensor = model.graph.initializer[index]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            with view[part] as raw:
                if min(tensor.dims, default=0) < 0 or raw.nbytes != prod(tensor.dims) * dtype.itemsize:
                    raise ModelError(
                        f"{name}: the tensor {tensor.name!r} cannot be read: {raw.nbytes} bytes for {dtype} numbers of the shape {list(tensor.dims)}; export or copy it again"
                    )
                try:
                    weights[tensor.name] = np.frombuffer(raw, dtype).copy().reshape(tensor.dims)
                except MemoryError as error:
                    raise ModelError(
                        f"{name}: the tensor {tensor.name!r} of shape {list(tensor.dims)} takes {raw.nbytes:,} bytes, and there is not enough memory for them; load it where there is"
                    ) from error
    return model, weights


def move_out(graph: onnx.GraphProto, name: str, outside: Mapping[str, Array]) -> dict[str, Array]:
    """Replace every large weight of a graph by a stub; all weights outside then, those that were `outside` before included."""
    weights = dict(outside)
    for tensor in graph.initializer:
        if tensor.name not in outside and is_large(tensor.data_type, tensor.dims):
            weights[tensor.name] = to_array(tensor, name)
        if tensor.name in weights:
            tensor.CopyFrom(stub(tensor.name, tensor.data_type, tensor.dims))
    return weights


def put_back(graph: onnx.GraphProto, outside: Mapping[str, Array]) -> None:
    """Replace the stubs in a graph by their weights."""
    for tensor in graph.initializer:
        if tensor.name in outside:
            tensor.CopyFrom(numpy_helper.from_array(outside[tensor.name], tensor.name))


def to_array(tensor: TensorProto, name: str) -> Array:
    """A tensor's value.

    Raises:
        ModelError: its data is damaged, or in a file that is not there.
    """
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError, MemoryError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{name}: the tensor {tensor.name!r} cannot be read: {error}; pass the path of the file if its weights are in other files, "
            "or export or copy it again"
        ) from error


def cut_weights(data: bytes | memoryview) -> tuple[bytes, dict[int, slice]]:
    """A model's bytes without its large weights, and for the index of each among the initializers the slice that holds its data.

    Bytes that are no ONNX model are returned as they are: protobuf reports the damage.
    """
    view = memoryview(data)
    try:
        graphs = [field for field in _fields(view, 0, len(view)) if field.number == _GRAPH]
        if len(graphs) != 1:
            return bytes(view), {}
        parts, slices = _without_weights(view, graphs[0])
    except (IndexError, ValueError):
        return bytes(view), {}
    graph = b"".join(parts)
    head, tail = view[: graphs[0].start], view[graphs[0].end :]
    return b"".join((head, _tag(_GRAPH), _varint(len(graph)), graph, tail)), slices


@dataclass(frozen=True)
class _Field:
    number: int
    start: int  # of the tag
    begin: int  # of the content
    end: int
    value: int  # of a field that is one number


def _without_weights(view: memoryview, graph: _Field) -> tuple[list[bytes | memoryview], dict[int, slice]]:
    parts: list[bytes | memoryview] = []
    slices, index = {}, 0
    for field in _fields(view, graph.begin, graph.end):
        raw = None
        if field.number == _INITIALIZER:
            raw = _large_data(list(_fields(view, field.begin, field.end)))
            index += 1
        if raw is None:
            parts.append(view[field.start : field.end])
        else:
            slices[index - 1] = slice(raw.begin, raw.end)
            size = raw.start - field.begin + field.end - raw.end
            parts += [_tag(_INITIALIZER), _varint(size), view[field.begin : raw.start], view[raw.end : field.end]]
    return parts, slices


def _large_data(tensor: Sequence[_Field]) -> _Field | None:
    """The raw data of a tensor that has enough of it to be kept outside."""
    data_types = [field.value for field in tensor if field.number == _DATA_TYPE]
    raws = [field for field in tensor if field.number == _RAW_DATA]
    if len(data_types) != 1 or len(raws) != 1:  # of a field that is given twice protobuf takes the last
        return None
    return raws[0] if raws[0].end - raws[0].begin >= _LARGE * 4 and data_types[0] in _PLAIN else None


def _fields(view: memoryview, begin: int, end: int) -> Iterator[_Field]:
    """The fields of a message.

    Raises:
        IndexError, ValueError: these bytes are no message.
    """
    at = begin
    while at < end:
        start = at
        tag, at = _number(view, at)
        value = 0
        match tag & 7:
            case 0:
                content = at
                value, at = _number(view, at)
            case 1:
                content, at = at, at + 8
            case 2:
                size, content = _number(view, at)
                at = content + size
            case 5:
                content, at = at, at + 4
            case kind:
                raise ValueError(kind)
        if at > end:
            raise ValueError(at)
        yield _Field(tag >> 3, start, content, at, value)


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """The number at an offset, written in groups of seven bits, the lowest first, and the offset after it."""
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)
