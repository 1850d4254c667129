"""The command line: `decoding COMMAND`, each command in a file of its own."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from io import TextIOWrapper

import decoding
from decoding.cli.shared.parser import Parser
from decoding.errors import DecodingError

# What --help says of each command, in this order. Each is a module of this folder with `add_parser()`, which is imported
# when the command is chosen: with the package that it needs, that takes half a second.
COMMANDS = {
    "generate": "continue a prompt",
    "batch": "decode every row of a file into another",
    "serve": "answer requests over HTTP: OpenAI's completions, and a page",
    "score": "log-probability and perplexity of a text",
    "inspect": "print a model's contract",
    "models": "list the models that ship",
    "annotate": "write a vocabulary, special ids and roles into a file",
    "quantize": "write a model with int8 weights",
    "compare": "how far two models differ on a text",
    "bench": "how fast a model decodes here, and how to run it fastest",
    "completion": "print a script that completes commands and options",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 after a `DecodingError`, 2 after wrong usage, 130 after Ctrl-C."""
    if os.name == "nt":
        _speak_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    args = make_parser(argv[:1]).parse_args(argv)
    try:
        args.run(args)
    except DecodingError as error:
        print(f"decoding: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except OSError as error:
        # The reader (head, say) has left; point stdout elsewhere so that the flush at exit is quiet too. Windows says EINVAL.
        if not isinstance(error, BrokenPipeError) and (os.name != "nt" or error.errno != errno.EINVAL):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _speak_utf8() -> None:
    """Read and write UTF-8 through pipes, as in files: Windows has a code page for them, which lacks most characters."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and "PYTHONIOENCODING" not in os.environ:
            stream.reconfigure(encoding="utf-8")


def make_parser(commands: Collection[str] = tuple(COMMANDS)) -> Parser:
    """Return the parser of the command line, with the options of these commands; the others are only named."""
    parser = Parser(prog="decoding", description="Decode recurrent ONNX models.")
    parser.add_argument("--version", action="version", version=f"rnn-decoding {decoding.__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help in COMMANDS.items():
        if name in commands:
            import_module(f"decoding.cli.{name}").add_parser(added, help)
        else:
            added.add_parser(name, help=help)
    return parser
