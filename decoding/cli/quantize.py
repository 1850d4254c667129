"""`decoding quantize`: write a model with int8 weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from decoding.cli.shared.load_options import add_load_options, load_arguments
from decoding.cli.shared.parser import Parser
from decoding.errors import OptionError
from decoding.model.load import load


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "quantize",
        help=help,
        usage="decoding quantize IN OUT [options]",
        description="Write the step graph of a model with int8 weights, and say which became int8 and how far that moves the logits. "
        "Encoders stay in floating point and are written to the same folder. onnxruntime runs OUT; where the native step can run IN, "
        'load(IN, quantize="int8") is faster than OUT.',
        examples=(
            "decoding quantize shakespeare small.onnx",
            "decoding quantize tang tang8.onnx --json",
        ),
    )
    parser.add_argument("model", metavar="IN", help="an ONNX file, its folder, or a shipped model")
    parser.add_argument("output", metavar="OUT", help="the file to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_load_options(parser, without=("quantize", "executor", "providers"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the model and print what changed."""
    output = Path(args.output)
    if output.exists() and Path(args.model).exists() and output.samefile(args.model):
        raise OptionError(f"OUT {output}: the same file as IN; give another name")
    model = load(args.model, **load_arguments(args) | {"quantize": "int8", "executor": "onnxruntime"})
    plain = load(args.model, **load_arguments(args) | {"executor": "onnxruntime", "verify": False})
    model.save(output)
    notes = [note for note in model._network.contract.notes if "int8" in note]
    facts = {"weight_bytes": plain.weight_bytes, "int8_weight_bytes": model.weight_bytes, "file_bytes": output.stat().st_size}  # fmt: skip
    if args.json:
        print(json.dumps({"output": str(output), **facts, "notes": notes}))
        return
    ratio = plain.weight_bytes / model.weight_bytes
    print(f"{output}: weights {plain.weight_bytes / 1e6:.2f} MB -> {model.weight_bytes / 1e6:.2f} MB ({ratio:.1f} times smaller)")  # fmt: skip
    for note in notes:
        print(note)
