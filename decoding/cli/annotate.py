"""`decoding annotate`: write a tokenizer, special ids and roles into an export's metadata."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from decoding.cli.shared.load_options import read_json
from decoding.cli.shared.parser import Parser
from decoding.errors import OptionError
from decoding.model.graph.graph import Graph
from decoding.model.graph.metadata import write_metadata
from decoding.model.roles.given import caller_roles, given_roles
from decoding.model.roles.text import special_id_metadata
from decoding.tokenizers import (
    PlainVocabulary,
    SpecialIds,
    Tokenizer,
    checked_special_ids,
    fitted,
    read_tokenizer,
    special_ids_of,
    tokenizer_metadata,
)


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "annotate",
        help=help,
        description="Write a vocabulary or a tokenizer, special ids and roles into the metadata of an ONNX file. The graph and its "
        "weights stay as they are. What is not given here stays as the file has it.",
        usage="decoding annotate FILE [options]",
        examples=(
            "decoding annotate char_rnn.onnx --vocab vocab.json --eos 0",
            """decoding annotate char_rnn.onnx --roles '{"token": "tokens"}' --output a.onnx""",
        ),
    )
    parser.add_argument("file", metavar="FILE", help="an ONNX file: a model, or an encoder")
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "--vocab",
        metavar="FILE",
        help="the vocabulary: a .json file with a list of tokens or a dict from token to id, or a text file with a token a line",
    )
    text.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="a Hugging Face tokenizer.json, a SentencePiece .model, or a folder with one; it brings its special ids",
    )
    parser.add_argument("--bos", type=int, metavar="ID", help="the id that begins a sequence")
    parser.add_argument("--eos", type=int, metavar="ID", nargs="+", help="the id, or ids, that end a sequence")
    parser.add_argument("--pad", type=int, metavar="ID", help="the id of padding")
    parser.add_argument("--roles", metavar="JSON", help="roles as load(roles=...) takes them, as JSON")
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: FILE itself)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the metadata, and print which entries were written and which other files belong to the model."""
    graph = Graph.load(args.file)
    tokenizer = _tokenizer(args)
    ids = checked_special_ids(args.bos, args.eos, args.pad, ("--bos", "--eos", "--pad"))
    brought = SpecialIds() if args.tokenizer is None else special_ids_of(args.tokenizer, tokenizer)
    entries = special_id_metadata(graph.metadata, tokenizer, ids, brought)
    if tokenizer is not None:
        entries |= tokenizer_metadata(tokenizer)
    if args.roles is not None:
        entries["decoding.roles"] = json.dumps(_roles(graph, args.roles))
    written = {key: value for key, value in entries.items() if value is not None}
    if not written:
        raise OptionError("there is nothing to write; pass --vocab, --tokenizer, --bos, --eos, --pad or --roles")
    output = Path(args.file if args.output is None else args.output)
    external = write_metadata(Path(args.file), entries, output)
    print(f"{output}: wrote " + ", ".join(_shown(key, value, tokenizer) for key, value in written.items()))
    if external:
        print(f"its weights are in {', '.join(external)}, which must stay in the same folder")


def _tokenizer(args: argparse.Namespace) -> Tokenizer | None:
    if args.vocab is not None:
        return _vocabulary(Path(args.vocab))
    if args.tokenizer is None:
        return None
    read = read_tokenizer(args.tokenizer, "--tokenizer")
    assert not isinstance(read, PlainVocabulary)  # a path never is one
    return read


def _vocabulary(path: Path) -> Tokenizer:
    """Return the vocabulary in a file, with "" for the ids that have no token.

    Raises:
        OptionError: the file cannot be read, or is no vocabulary.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tokens: Any = json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"--vocab {path}: cannot be read: {error}; give a .json file, or a text file in UTF-8"
        ) from error
    whole = isinstance(tokens, dict) and all(isinstance(index, int) for index in tokens.values())
    count = max(tokens.values(), default=-1) + 1 if whole else len(tokens) if isinstance(tokens, list | dict) else 0
    return fitted(PlainVocabulary(tokens), count, f"--vocab {path}", ids=f"its ids end at {count - 1}")


def _roles(graph: Graph, text: str) -> dict[str, Any]:
    """Return roles that the graph's inputs and outputs can have.

    Raises:
        OptionError: they are no JSON, or name something else.
    """
    roles = read_json("--roles", text, '\'{"token": "ids"}\'')
    given_roles(graph, roles)
    return caller_roles(roles)


def _shown(key: str, value: str, tokenizer: Tokenizer | None) -> str:
    return f"{key} ({tokenizer!r})" if len(value) > 100 and key != "decoding.roles" else f"{key} {value}"
