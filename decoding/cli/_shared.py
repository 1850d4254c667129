"""Code that several commands share: reading prompts, writing pictures."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

import decoding
from decoding.errors import OptionError
from decoding.model.model import Model
from decoding.model.native.step import EXECUTORS


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses what runs the network."""
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        help="what runs the network; default: the native step where it runs the graph and the network is not too large, else onnxruntime",
    )


def read_prompt(model: Model, prompt: str | None, name: str = "PROMPT") -> str | list[int] | None:
    """Return a prompt as decode() takes it: a text, or ids where the model has no vocabulary.

    Args:
        name: the argument in messages.

    Raises:
        OptionError: there is no prompt where one is needed, or its words are no ids.
    """
    if model._network.encoders is not None:
        if prompt is None:
            raise OptionError(f"PROMPT: {model.name} has an encoder; give a source for it to read")
        if any(stage.tokenizer is not None for stage in model._network.encoders):
            return prompt
    elif prompt is None and model.bos_token_id is None:
        raise OptionError(f"PROMPT: {model.name} has no BOS to start from; give a prompt to continue")
    if prompt is None or (model._network.encoders is None and model.tokenizer is not None):
        return prompt
    try:
        return [int(word) for word in prompt.split()]
    except ValueError as error:
        raise OptionError(
            f"{name} {shorten(prompt, 40)!r}: {model.name} has no vocabulary; give ids split by spaces, such as '3 17 4'"
        ) from error


def check_picture(file: str) -> Any:
    """Return `decoding.plot` after a check that a picture can be written to the file: before the work rather than after.

    Raises:
        OptionError: matplotlib is not installed, or there is no such folder or kind of picture.
    """
    plot = decoding.plot
    kinds = import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if Path(file).suffix.removeprefix(".").lower() not in kinds:
        raise OptionError(f"--plot {file}: expected a name that ends in .{', .'.join(sorted(kinds))}")
    if not Path(file).parent.is_dir():
        raise OptionError(f"--plot {file}: there is no folder {Path(file).parent}")
    return plot


def write_picture(figure: Any, file: str) -> None:
    """Write a figure to a file, of the kind that its name ends in."""
    try:
        figure.savefig(file)
    except OSError as error:
        raise OptionError(f"--plot {file}: cannot be written: {error}") from error
