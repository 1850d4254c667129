"""The options that say how a model is loaded: a flag for each argument of `load()`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from decoding.cli.shared.parser import rare
from decoding.errors import OptionError
from decoding.model.load import load
from decoding.model.model import Model
from decoding.model.native.step import EXECUTORS


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `load_model()` reads, beside the argument MODEL of the command."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--tokenizer", metavar="PATH", help="a tokenizer.json, a SentencePiece .model, or a folder with one"
    )
    group.add_argument("--quantize", choices=["int8"], help="turn the weights into int8")
    group.add_argument(
        "--executor",
        choices=EXECUTORS,
        metavar="NAME",
        help="what runs the network: native or onnxruntime (default: by its size)",
    )
    for flag, options in {
        "--encoder": {
            "metavar": "FILE",
            "action": "append",
            "help": "an encoder's ONNX file; repeat it for several in turn (default: those beside MODEL)",
        },
        "--roles": {"metavar": "JSON", "help": "load()'s roles, as JSON or as the path of a .json file"},
        "--encoder-tokenizer": {"metavar": "PATH", "help": "the same as --tokenizer, for what the encoder reads"},
        "--bos": {"metavar": "ID", "type": int, "help": "the id that begins a sequence"},
        "--eos": {
            "metavar": "ID",
            "type": int,
            "action": "append",
            "help": "the id that ends a sequence; may be repeated",
        },
        "--pad": {"metavar": "ID", "type": int, "help": "the id of padding"},
        "--providers": {
            "metavar": "NAME",
            "help": 'onnxruntime\'s providers, split by commas, or "cpu" or "cuda" (default: cpu)',
        },
        "--threads": {"metavar": "N", "type": int, "help": "intra-op threads of onnxruntime"},
        "--no-verify": {"action": "store_true", "help": "do not compare stepping with the file's own run"},
    }.items():
        rare(group.add_argument(flag, **options))  # type: ignore[arg-type]


def load_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `load()` that the command line has set.

    Raises:
        OptionError: `--roles` is no JSON.
    """
    providers = args.providers
    return {
        "encoder": args.encoder,
        "tokenizer": args.tokenizer,
        "encoder_tokenizer": args.encoder_tokenizer,
        "roles": None if args.roles is None else read_json("--roles", args.roles, '\'{"token": "ids"}\''),
        "bos_token_id": args.bos,
        "eos_token_id": args.eos,
        "pad_token_id": args.pad,
        "providers": providers.split(",") if providers is not None and "," in providers else providers,
        "threads": args.threads,
        "quantize": args.quantize,
        "executor": args.executor,
        "verify": not args.no_verify,
    }


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
