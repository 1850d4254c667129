"""Writes a file's metadata and leaves everything else in it as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import Error as ProtobufError
from onnx import helper

from decoding.errors import ModelError, OptionError
from decoding.model.graph.external_data import every_tensor, is_external


def write_metadata(path: Path, entries: Mapping[str, str | None], output: Path) -> list[str]:
    """Set entries of a file's metadata, None removes one; return the names of the files with its external data.

    The output takes the place of another file only when it is complete.

    Raises:
        OptionError: the output is in another folder than the external data.
        ModelError: the file cannot be read, or the output cannot be written.
    """
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (OSError, ProtobufError, MemoryError) as error:
        raise ModelError(f"{path}: it cannot be read: {error}; pass the path of an .onnx file") from error
    external = sorted(
        {
            entry.value
            for t in every_tensor(model)
            if is_external(t)
            for entry in t.external_data
            if entry.key == "location"
        }
    )
    if external and os.path.realpath(output.parent) != os.path.realpath(path.parent):
        raise OptionError(
            f"{output}: the weights of {path} are in {', '.join(external)}, in its folder; write to the same folder, or first copy all files"
        )
    merged: dict[str, str | None] = {entry.key: entry.value for entry in model.metadata_props}
    merged.update(entries)
    del model.metadata_props[:]
    helper.set_model_props(model, {key: value for key, value in merged.items() if value is not None})
    part = output.with_name(f"{output.name}.part")
    try:
        part.write_bytes(model.SerializeToString())
        if output.exists():
            shutil.copymode(output, part)
        os.replace(part, output)
    except (OSError, ValueError, ProtobufError) as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"{output} cannot be written: {error}") from error
    return external
