"""Reading an ONNX model: from a file, from bytes or from a ModelProto. A damaged one is refused."""

from __future__ import annotations

from mmap import ACCESS_READ, mmap
from pathlib import Path

import onnx

from decoding.errors import ModelError, OptionError
from decoding.model.graph.external_weights import move_out, parse, read_data_files
from decoding.model.graph.types import Array
from decoding.model.graph.validate import check_text, sort_nodes

ModelFile = str | Path | bytes | onnx.ModelProto


def read_model(source: ModelFile) -> tuple[onnx.ModelProto, str, dict[str, Array]]:
    """The model without its large weights, its name for messages, and those weights. A ModelProto is copied, never edited.

    Raises:
        ModelError: there is no such file, or it does not hold an ONNX model.
        OptionError: the source is none of these.
    """
    weights: dict[str, Array] = {}
    if isinstance(source, onnx.ModelProto):
        model, name = onnx.ModelProto(), "the ModelProto"
        model.CopyFrom(source)
    elif isinstance(source, bytes):
        name = "the bytes given"
        model, weights = parse(source, name)
    elif isinstance(source, str | Path):
        name = str(source)
        model, weights = _read_file(Path(source))
    else:
        raise OptionError(
            f"model or encoder: found {type(source).__name__}; expected the path of an .onnx file, its bytes, an onnx.ModelProto or the name of a "
            "shipped model (decode() takes a model that load() returned as it is)"
        )
    check_text(model, name)
    sort_nodes(model.graph, name)
    if not model.graph.node:
        raise ModelError(f"{name}: not an ONNX model, or one without any node; pass a file that an ONNX exporter wrote")
    return model, name, move_out(model.graph, name, weights)


def _read_file(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]]:
    if path.is_dir():
        raise ModelError(f"{path}: a folder; pass the path of an .onnx file, or the name of a shipped model")
    if not path.is_file():
        raise ModelError(f"{path}: no such file; pass the path of an .onnx file, or the name of a shipped model")
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ModelError(f"{path}: not an ONNX file, it is empty; export or copy it again")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            model, weights = parse(data, str(path))
    try:
        read_data_files(model, path.parent, weights)
    except Exception as error:
        raise ModelError(f"{path}: its external data cannot be read: {error}") from error
    return model, weights
