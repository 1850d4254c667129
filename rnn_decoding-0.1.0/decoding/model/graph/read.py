"""Reading an ONNX model: from a file, from bytes or from a ModelProto. A damaged one is refused."""

from __future__ import annotations

import os
from mmap import ACCESS_READ, mmap
from pathlib import Path

import onnx
from google.protobuf.message import Error as ProtobufError

from decoding.errors import ModelError, OptionError
from decoding.model.graph.external_data import read_external_data
from decoding.model.graph.external_weights import move_out, parse
from decoding.model.graph.types import Array
from decoding.model.graph.validate import check_structure, check_text, sort_nodes

ModelFile = str | Path | bytes | onnx.ModelProto


def read_model(source: ModelFile) -> tuple[onnx.ModelProto, str, dict[str, Array]]:
    """The model without its large weights, its name for messages, and those weights. A ModelProto is copied, never edited.

    Raises:
        ModelError: there is no such file, or it does not hold an ONNX model.
        OptionError: the source is none of these.
    """
    folder: Path | None = None
    if isinstance(source, onnx.ModelProto):
        name = "the ModelProto"
        model, weights = parse(_serialized(source), name)  # one built in memory may hold what no file can
    elif isinstance(source, bytes):
        name = "the bytes given"
        model, weights = parse(source, name)
    elif isinstance(source, str | Path):
        name, folder = str(source), Path(source).parent
        model, weights = _read_file(Path(source))
    else:
        raise OptionError(
            f"model or encoder: found {type(source).__name__}; expected the path of an .onnx file, its bytes, an onnx.ModelProto or the name of a "
            "shipped model (decode() takes a model that load() returned as it is)"
        )
    model.DiscardUnknownFields()  # a newer onnxruntime may know them, and nothing here can check them
    check_text(model, name)
    if not model.graph.node:
        raise ModelError(f"{name}: not an ONNX model, or one without any node; pass a file that an ONNX exporter wrote")
    check_structure(model, name)
    weights |= read_external_data(model, name, folder, weights)
    sort_nodes(model.graph, name)
    return model, name, move_out(model.graph, name, weights)


def _read_file(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]]:
    if os.path.isdir(path):  # Path.is_dir() raises where a name is longer than a file system takes
        raise ModelError(f"{path}: a folder; pass the path of an .onnx file, or the name of a shipped model")
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file; pass the path of an .onnx file, or the name of a shipped model")
    try:
        file = path.open("rb")
    except OSError as error:
        raise ModelError(
            f"{path}: it cannot be opened: {error.strerror}; check the path and who may read it"
        ) from error
    with file:
        if not path.stat().st_size:
            raise ModelError(f"{path}: not an ONNX file, it is empty; export or copy it again")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return parse(data, str(path))


def _serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a message.

    Raises:
        ModelError: it has more than protobuf can write.
    """
    try:
        return bytes(model.SerializeToString())
    except (ValueError, ProtobufError, MemoryError) as error:
        raise ModelError(
            f"the ModelProto: it cannot be serialized ({error}); write it by onnx.save(..., save_as_external_data=True) and pass that path"
        ) from error
