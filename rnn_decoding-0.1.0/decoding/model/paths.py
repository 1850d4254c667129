"""Paths of a model's files: shipped models by their name, and encoders beside their decoder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from decoding.errors import ModelError, shown
from decoding.model.graph.graph import ModelFile

# The end of the name of an encoder's file.
_ENCODER = re.compile(r"\.encoder\d*\.onnx$")


def shipped(model: ModelFile) -> ModelFile:
    """The path of a shipped model where `model` is its bare name; `model` itself otherwise.

    Raises:
        ModelError: it is a bare name, and neither a file nor a shipped model.
    """
    if isinstance(model, str) and "/" not in model and "." not in model and not _exists(model):
        folder = resources.files("decoding") / "pretrained"
        names = sorted(f.name.removesuffix(".onnx") for f in folder.iterdir() if re.fullmatch(r"[^.]+\.onnx", f.name))
        if model not in names:
            raise ModelError(
                f"{shown(model)[1:-1]}: no such file, and no shipped model of that name; shipped are {', '.join(names)}"
            )
        return str(folder / f"{model}.onnx")
    return model


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file has: too long, or with a null character
        return False


def model_file(model: ModelFile) -> tuple[ModelFile, Path | None]:
    """The model's file, and its folder where `model` is one: the only .onnx file in it, encoders aside.

    Raises:
        ModelError: a folder has none, or several.
    """
    if not isinstance(model, str | Path) or not os.path.isdir(model):
        return model, None
    folder = Path(model)
    found = sorted(p for p in folder.glob("*.onnx") if p.is_file() and not _ENCODER.search(p.name))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "no .onnx file"
        raise ModelError(
            f"{folder}: a folder; pass the path of an .onnx file, or a folder with one alone (encoders, NAME.encoder.onnx, aside): it has {names}"
        )
    return found[0], folder


def encoder_files(model: ModelFile, encoder: ModelFile | Sequence[ModelFile] | None) -> list[ModelFile]:
    """The encoders that were given, else those beside the model's file."""
    if isinstance(encoder, list | tuple):
        return list(encoder)
    if encoder is not None:
        return [shipped(encoder)]  # type: ignore[arg-type]
    if not isinstance(model, str | Path):
        return []
    (one,) = encoder_paths(Path(model), 1)
    several: list[ModelFile] = []
    while (path := encoder_paths(Path(model), len(several) + 2)[len(several)]).is_file():
        several.append(path)
    return [one] if one.is_file() else several


def encoder_paths(path: Path, count: int) -> list[Path]:
    """Paths of `count` encoders of the model at `path`: NAME.encoder.onnx, or NAME.encoder1.onnx and so on."""
    numbers = [""] if count == 1 else [str(k + 1) for k in range(count)]
    return [path.with_name(f"{path.name.removesuffix('.onnx')}.encoder{number}.onnx") for number in numbers]
