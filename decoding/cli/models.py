"""`decoding models`: list the models that ship."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.cli.shared.parser import Parser
from decoding.cli.shared.tables import table
from decoding.model.load import load
from decoding.model.paths import encoder_files, shipped

DEFAULT_MODEL = "shakespeare"


@dataclass(frozen=True)
class Shipped:
    """A model that ships.

    Attributes:
        what: the network and what it does, in a few words.
        data: what it was trained on, and its licence.
        prompt: what `decoding generate` gives it where there is no prompt; None where it starts from BOS.
    """

    what: str
    data: str
    prompt: str | None


SHIPPED = {
    "dates": Shipped("a date in eleven languages -> ISO 8601; GRU with attention", "made from CLDR's names", "3 mai 2026"),
    "shakespeare": Shipped("plays, by characters; LSTM 2x224", "Shakespeare's plays", "ROMEO:"),
    "tang": Shipped("Chinese quatrains; peephole LSTM 256", "11,067 Tang quatrains", None),
}  # fmt: skip
LICENCE = "Apache-2.0"


def is_model(name: str) -> bool:
    """Return whether a name is that of a shipped model, or the path of a file, be it there or not, rather than a prompt."""
    return name in SHIPPED or name.endswith(".onnx") or os.path.exists(name)


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "models",
        help=help,
        description="List the models that ship with the package: what each does, its size, vocabulary and licence.",
        examples=("decoding models", "decoding models --json"),
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line for each model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print a table of the shipped models."""
    found = [_facts(name, one) for name, one in SHIPPED.items()]
    if args.json:
        for facts in found:
            print(json.dumps(facts, ensure_ascii=False))
        return
    rows = [
        (f["name"], f["what"], f"{f['bytes'] / 1e6:.1f} MB", f"{f['vocabulary']:,}", f["data"], f["licence"])
        for f in found
    ]
    print(table(("name", "what", "size", "tokens", "data", "licence"), rows, right=(2, 3)))


def _facts(name: str, one: Shipped) -> dict[str, Any]:
    path = shipped(name)
    files = [path, *encoder_files(path, None)]
    return {
        "name": name,
        "what": one.what,
        "data": one.data,
        "bytes": sum(Path(str(file)).stat().st_size for file in files),
        "vocabulary": load(name).vocab_size,
        "licence": LICENCE,
    }
