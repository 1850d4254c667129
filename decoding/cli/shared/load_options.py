"""The options that say how a model is loaded: a flag for each argument of `load()`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from decoding.cli.shared.parser import rare
from decoding.errors import OptionError
from decoding.model.load import load
from decoding.model.model import Model
from decoding.model.native.step import EXECUTORS

# Of each argument of load(): its flag, the options of argparse, and whether --help only names it.
_FLAGS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "tokenizer": ("--tokenizer", {"metavar": "PATH", "help": "tokenizer.json, a SentencePiece .model, or a folder"}, False),
    "quantize": ("--quantize", {"choices": ["int8"], "help": "convert the weights to int8"}, False),
    "executor": ("--executor", {"choices": EXECUTORS, "metavar": "NAME", "help": "native or onnxruntime (default: by the network's size)"}, False),
    "encoder": ("--encoder", {"metavar": "FILE", "action": "append", "help": "an encoder's ONNX file; repeat it for several in turn (default: those in MODEL's folder)"}, True),
    "roles": ("--roles", {"metavar": "JSON", "help": "load()'s roles, as JSON or as the path of a .json file"}, True),
    "encoder_tokenizer": ("--encoder-tokenizer", {"metavar": "PATH", "help": "the same as --tokenizer, for what the encoder reads"}, True),
    "bos_token_id": ("--bos", {"metavar": "ID", "type": int, "help": "the id that begins a sequence"}, True),
    "eos_token_id": ("--eos", {"metavar": "ID", "type": int, "action": "append", "help": "the id that ends a sequence; may be repeated"}, True),
    "pad_token_id": ("--pad", {"metavar": "ID", "type": int, "help": "the id of padding"}, True),
    "providers": ("--providers", {"metavar": "NAME", "help": 'onnxruntime\'s providers, split by commas, or "cpu" or "cuda" (default: cpu)'}, True),
    "threads": ("--threads", {"metavar": "N", "type": int, "help": "intra-op threads of onnxruntime"}, True),
    "verify": ("--no-verify", {"action": "store_false", "default": True, "help": "do not compare stepping with the file's own run"}, True),
}  # fmt: skip


def add_load_options(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add the options that `load_arguments()` reads, beside the argument MODEL of the command.

    Args:
        without: arguments of `load()` that the command sets by itself.
    """
    group = parser.add_argument_group("model")
    for name, (flag, options, named_only) in _FLAGS.items():
        if name not in without:
            action = group.add_argument(flag, dest=name, **options)
            if named_only:
                rare(action)


def load_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `load()` that the command has options for.

    Raises:
        OptionError: `--roles` is no JSON.
    """
    given = {name: getattr(args, name) for name in _FLAGS if hasattr(args, name)}
    if given.get("roles") is not None:
        given["roles"] = read_json("--roles", given["roles"], '\'{"token": "ids"}\'')
    if "," in (given.get("providers") or ""):
        given["providers"] = given["providers"].split(",")
    return given


def load_model(args: argparse.Namespace) -> Model:
    """Return `load()` of MODEL with the options of the command line."""
    return load(args.model, **load_arguments(args))


def read_json(flag: str, text: str, example: str) -> Any:
    """Return what JSON says, written out or in a file whose name ends in .json.

    Raises:
        OptionError: it is no JSON, or the file cannot be read.
    """
    try:
        return json.loads(Path(text).read_text(encoding="utf-8") if text.endswith(".json") else text)
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"{flag}: not JSON ({error}); write it as {example}, or give the path of a .json file"
        ) from error
