"""The command line: `decoding COMMAND`, each command in a file of its own."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import decoding
from decoding.cli.shared.parser import Parser
from decoding.errors import DecodingError

# In the order of --help: each is a module of this folder with `add_parser()`.
COMMANDS = (
    "generate",
    "batch",
    "serve",
    "score",
    "inspect",
    "models",
    "annotate",
    "quantize",
    "compare",
    "bench",
    "completion",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 after a `DecodingError`, 2 after wrong usage, 130 after Ctrl-C."""
    if os.name == "nt":
        _speak_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    # Only the module of the command that is run is imported: another one may need packages that take long to import.
    args = make_parser(argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS).parse_args(argv)
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


def make_parser(commands: Sequence[str] = COMMANDS) -> Parser:
    """Return the parser of the command line, with these commands."""
    parser = Parser(prog="decoding", description="Decode recurrent ONNX models.")
    parser.add_argument("--version", action="version", version=f"rnn-decoding {decoding.__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in commands:
        import_module(f"decoding.cli.{name}").add_parser(added)
    return parser
