"""Prompts of the command line: one argument, the lines of a file, or arrays."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from decoding.cli.shared.strategy_options import ids_of
from decoding.errors import OptionError
from decoding.model.model import Model


def read_text(file: str, flag: str = "FILE") -> str:
    """Return the text of a file, or of standard input where the name is "-".

    Raises:
        OptionError: the file cannot be read.
    """
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{flag} {file}: cannot be read: {error}; give a text file in UTF-8") from error


def read_arrays(file: str, flag: str) -> Any:
    """Return the array of an .npy file, or the arrays of an .npz file by name.

    Raises:
        OptionError: the file cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            found = np.load(opened, allow_pickle=False)
            return dict(found) if file.endswith(".npz") else found
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise OptionError(f"{flag} {file}: cannot be read: {error}; give an array of numpy.save(), or several of numpy.savez()") from error  # fmt: skip


def read_prompt(model: Model, prompt: str | None, name: str = "PROMPT") -> Any:
    """Return a prompt as decode() takes it: a text, ids where the model has no vocabulary, or for an encoder the arrays of a file.

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
        if prompt.endswith((".npy", ".npz")):
            return read_arrays(prompt, name)
    elif prompt is None and model.bos_token_id is None:
        raise OptionError(f"PROMPT: {model.name} has no BOS to start from; give a prompt to continue")
    if prompt is None or (model._network.encoders is None and model.tokenizer is not None):
        return prompt
    return ids_of(prompt, name, f"ids split by spaces, such as '3 17 4', as {model.name} has no vocabulary")


def read_prefix(model: Model, prefix: str | None) -> str | list[int] | None:
    """Return the decoder's first tokens as decode() takes them: a text, or ids where the model has no vocabulary.

    Raises:
        OptionError: its words are no ids.
    """
    if prefix is None or model.tokenizer is not None:
        return prefix
    return ids_of(prefix, "--prefix", f"ids split by spaces, as {model.name} has no vocabulary")


def read_sequences(model: Model, file: str, flag: str, *, lines: bool) -> tuple[list[str], list[Any]]:
    """Return the text of a file, or its lines that are not empty, and each as score() takes it: a text, or ids.

    Raises:
        OptionError: the file cannot be read, or its words are no ids where the model has no vocabulary.
    """
    text = read_text(file, flag)
    texts = [line for line in text.splitlines() if line] if lines else [text] if text else []
    if model.tokenizer is not None:
        return texts, list(texts)
    expected = f"ids split by spaces, such as '3 17 4', as {model.name} has no vocabulary"
    return texts, [ids_of(text, flag, expected) for text in texts]


def read_sources(model: Model, file: str | None, count: int, wanted_by: str) -> list[Any] | None:
    """Return what the encoder reads for each of `count` sequences, a line of a file each; None without an encoder.

    Raises:
        OptionError: there is no file where the encoder needs one, or it has other than `count` lines.
    """
    if model._network.encoders is None:
        if file is not None:
            raise OptionError(f"--sources {file}: {model.name} has no encoder; leave it out")
        return None
    if file is not None and file.endswith(".npy"):
        rows = list(read_arrays(file, "--sources"))
        if len(rows) != count:
            raise OptionError(f"--sources {file}: {len(rows)} rows, but {wanted_by} has {count}")
        return rows
    if file is None:
        raise OptionError(f"{wanted_by}: {model.name} has an encoder; pass its sources, one on each line, as --sources FILE")  # fmt: skip
    lines = [line for line in read_text(file, "--sources").splitlines() if line]
    if len(lines) != count:
        raise OptionError(f"--sources {file}: {len(lines)} lines with text, but {wanted_by} has {count}")
    return [read_prompt(model, line, "--sources") for line in lines]
