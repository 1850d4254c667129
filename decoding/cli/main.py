"""The command line: `decoding generate`, `score`, `inspect`, `annotate` and `serve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import decoding
from decoding.cli import annotate, generate, inspect, score, serve
from decoding.errors import DecodingError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 after a `DecodingError`, 2 after wrong usage, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except DecodingError as error:
        print(f"decoding: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has left; point stdout elsewhere so that the flush at exit is quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decoding", description="Decode recurrent ONNX models.")
    parser.add_argument("--version", action="version", version=f"rnn-decoding {decoding.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (generate, score, inspect, annotate, serve):
        command.add_parser(commands)
    return parser
