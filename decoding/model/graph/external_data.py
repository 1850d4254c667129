"""External data, the tensors of a model that are in other files: checks which files it may read, and reads them.

A file that somebody else wrote says where its tensors are. onnx and onnxruntime would each look there by rules of
their own, and some versions of them also outside the file's folder. So both are given a model without external data:

- Bytes and a ModelProto have no folder, so they have no external data.
- A file's external data are regular files in its own folder or below it, after links are resolved.

`every_tensor` finds the tensors wherever they are: initializers, sparse ones, attributes, bodies, functions, training info.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from decoding.errors import ModelError
from decoding.model.graph.external_weights import is_large
from decoding.model.graph.types import Array

# Bits of one number of each TensorProto.DataType. Those of less than a byte share one. Strings have no size.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16, 17: 8, 18: 8,
         19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}  # fmt: skip
# Bytes that a protobuf message can hold.
_MESSAGE = 2**31 - 1


def _messages_with_tensors() -> frozenset[str]:
    """The names of ONNX's messages that a tensor may be in, at any depth."""
    found, before = {TensorProto.DESCRIPTOR.full_name}, 0
    messages = TensorProto.DESCRIPTOR.file.message_types_by_name.values()
    while len(found) > before:
        before = len(found)
        for message in messages:
            if any(
                field.message_type is not None and field.message_type.full_name in found for field in message.fields
            ):
                found.add(message.full_name)
    return frozenset(found)


_WITH_TENSORS = _messages_with_tensors()


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor in a model, wherever it is."""
    todo: list[Any] = [model]
    while todo:
        message = todo.pop()
        if isinstance(message, TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None and field.message_type.full_name in _WITH_TENSORS:
                todo += [value] if hasattr(value, "ListFields") else value


def read_external_data(model: ModelProto, name: str, folder: Path | None, cut: Container[str]) -> dict[str, Array]:
    """Read the tensors whose data are in other files into the model, and return the large weights among them by name.

    Args:
        folder: the file's own, None for a model that was no file.
        cut: names of initializers whose data were in the file itself.

    Raises:
        ModelError: a tensor has data elsewhere that it may not have there, or its size does not fit its shape.
    """
    weights: dict[str, Array] = {}
    if any(map(is_external, every_tensor(model))):
        for tensor in model.graph.initializer:
            if is_external(tensor) and tensor.name in cut:
                raise ModelError(
                    f"{name}: the tensor {tensor.name!r} has data in the file and in another one; export it again"
                )
            if is_external(tensor) and is_large(tensor.data_type, tensor.dims):
                path, offset, _ = _place(tensor, name, folder)
                dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                weights[tensor.name] = _read(tensor, name, path, offset, dtype, prod(tensor.dims)).reshape(tensor.dims)
                _forget_place(tensor)
        room = _MESSAGE
        for tensor in filter(is_external, every_tensor(model)):
            path, offset, size = _place(tensor, name, folder)
            room -= size
            if room < 0:
                raise ModelError(
                    f"{name}: the tensor {tensor.name!r} in {path} has {size} bytes of a type that is not kept outside protobuf's 2 GiB; export it as float32 or float16"
                )
            tensor.raw_data = _read(tensor, name, path, offset, np.dtype(np.uint8), size).tobytes()
            _forget_place(tensor)
    for tensor in every_tensor(model):
        expected = size_of(tensor, name)
        if tensor.HasField("raw_data") and expected is not None and expected != len(tensor.raw_data):
            raise ModelError(
                f"{name}: the tensor {tensor.name!r} cannot be read: {len(tensor.raw_data)} bytes for the shape {list(tensor.dims)}, which takes {expected}; export or copy it again"
            )
    return weights


def size_of(tensor: TensorProto, name: str) -> int | None:
    """The bytes that a tensor's numbers take; None for strings and for types that onnx does not know.

    Raises:
        ModelError: no tensor has this shape.
    """
    bits = _BITS.get(tensor.data_type)
    if any(size < 0 for size in tensor.dims) or prod(tensor.dims) * (bits or 8) >= 2**63:
        raise ModelError(
            f"{name}: the tensor {tensor.name!r} has the shape {list(tensor.dims)[:16]}, which no tensor has; export or copy it again"
        )
    return None if bits is None else (prod(tensor.dims) * bits + 7) // 8


def is_external(tensor: TensorProto) -> bool:
    """Return whether a tensor's data are in another file."""
    return tensor.data_location != TensorProto.DEFAULT or len(tensor.external_data) > 0


def _forget_place(tensor: TensorProto) -> None:
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _place(tensor: TensorProto, name: str, folder: Path | None) -> tuple[Path, int, int]:
    """The file that holds a tensor's data, after links are resolved, where they begin in it, and their size.

    Raises:
        ModelError: they may not lie there, or do not fit into the file.
    """
    what = f"{name}: the external data of the tensor {tensor.name!r}"
    if folder is None:
        raise ModelError(
            f"{what} cannot be read, as bytes and a ModelProto have no folder; pass the path of the file, or export it with its weights inside"
        )
    entries = [(entry.key, entry.value) for entry in tensor.external_data]
    given = dict(entries)
    if any(isinstance(text, bytes) for entry in entries for text in entry):
        raise ModelError(f"{what} have a location that is not UTF-8; export or copy the file again")
    if len(given) < len(entries) or given.keys() - {"location", "offset", "length", "checksum"}:
        raise ModelError(
            f"{what} are described by {[str(key)[:40] for key, _ in entries]}; expected location, offset, length and checksum, each once at most: export it again"
        )
    if tensor.data_location != TensorProto.EXTERNAL or tensor.HasField("raw_data"):
        raise ModelError(f"{what} are declared both in the file and in another one; export it again")
    size = size_of(tensor, name)
    if size is None:
        raise ModelError(f"{what} are of type {tensor.data_type}, whose numbers have no fixed size; export it again")
    path, found = _inside(given.get("location", ""), folder, what)
    offset = _whole(given.get("offset", "0"), "offset", what)
    length = _whole(given.get("length", str(size)), "length", what)
    if length != size or offset + size > found:
        raise ModelError(
            f"{what} are {length} bytes from byte {offset} of {path}, which has {found}; the shape {list(tensor.dims)} takes {size}: export or copy both files again"
        )
    return path, offset, size


def _inside(location: str, folder: Path, what: str) -> tuple[Path, int]:
    """The regular file at a location in the folder, and its size.

    Raises:
        ModelError: there is none.
    """
    shown = repr(location[:200])
    if not location or "\0" in location or os.path.isabs(location):
        raise ModelError(f"{what} are at {shown}; expected the name of a file in the model's folder: export it again")
    own = Path(os.path.realpath(folder))
    try:
        path = Path(os.path.realpath(own / location))
        if own not in path.parents:
            raise ModelError(
                f"{what} are at {shown}, outside the model's folder {own}, which is not read; copy the file there, or export the model again"
            )
        status = path.stat()
    except OSError as error:
        raise ModelError(
            f"{what} cannot be read: {shown}: {error.strerror}; copy the file to the model's folder {own}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{what} are at {shown}, which is not a regular file; export it again")
    return path, status.st_size


def _whole(text: str, key: str, what: str) -> int:
    """The number that an entry holds.

    Raises:
        ModelError: it is no whole number of at least 0.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ModelError(f"{what} have the {key} {text[:40]!r}; expected a whole number of bytes: export it again")
    return int(text)


def _read(tensor: TensorProto, name: str, path: Path, offset: int, dtype: np.dtype[Any], count: int) -> Array:
    """`count` numbers of a file.

    Raises:
        ModelError: there is not enough memory for them, or the file cannot be read.
    """
    try:
        array: Array = np.fromfile(path, dtype, count, offset=offset)
    except MemoryError as error:
        raise ModelError(
            f"{name}: the tensor {tensor.name!r} of shape {list(tensor.dims)} takes {count * dtype.itemsize:,} bytes of {path}, and there is not enough memory for them; load it where there is"
        ) from error
    except OSError as error:
        raise ModelError(
            f"{name}: the tensor {tensor.name!r} cannot be read from {path}: {error.strerror}; copy the file again"
        ) from error
    if array.size != count:
        raise ModelError(
            f"{name}: the tensor {tensor.name!r} cannot be read: {path} ended after {array.size} of {count} numbers; copy the file again"
        )
    return array
