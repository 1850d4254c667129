"""`decoding completion`: print a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from importlib import import_module

from decoding.cli.shared.parser import Parser
from decoding.errors import OptionError


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "completion",
        help=help,
        usage="decoding completion {bash,zsh,tcsh}",
        description="Print a script that completes commands and options in a shell. It needs shtab: pip install 'rnn-decoding[completion]'.",
        examples=(
            "decoding completion bash > decoding.bash   # then: source decoding.bash",
            "decoding completion zsh > _decoding        # in a folder of $fpath",
        ),
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    try:
        shtab = import_module("shtab")
    except ImportError as error:
        raise OptionError(
            "completion: needs shtab, which is not installed; pip install 'rnn-decoding[completion]'"
        ) from error
    make_parser = import_module("decoding.cli.main").make_parser  # which imports this module
    print(shtab.complete(make_parser(), shell=args.shell))
