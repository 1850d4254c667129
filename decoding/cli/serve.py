"""`decoding serve`: answer requests over HTTP."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from importlib import import_module

from decoding.cli.shared.load_options import add_load_options, load_arguments
from decoding.cli.shared.parser import Parser, rare, value_of
from decoding.errors import OptionError

_KEY = "DECODING_API_KEY"

# Of each limit: its type, its metavar, its default, its least value, and what --help-all says.
_LIMITS: dict[str, tuple[type, str, float, int, str]] = {
    "--max-body-bytes": (int, "N", 1 << 20, 1, "largest request"),
    "--max-prompt-tokens": (int, "N", 32_768, 1, "longest prompt or source"),
    "--max-prompts": (int, "N", 128, 1, "prompts in one request"),
    "--max-n": (int, "N", 128, 1, "outputs or beams of a prompt"),
    "--max-tokens": (int, "N", 4096, 1, "longest output"),
    "--max-connections": (int, "N", 1024, 1, "requests that are answered at once"),
    "--max-sessions": (int, "N", 256, 0, "sessions that are kept"),
    "--session-seconds": (float, "S", 3600, 1, "how long, after their last use"),
    "--drain-seconds": (float, "S", 60, 0, "how long SIGTERM waits for running requests"),
}


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "serve",
        usage="decoding serve MODEL [MODEL ...] [options]",
        help=help,
        description="Serve models over HTTP: OpenAI's completions, the Open Inference Protocol, metrics, and a page to look at. "
        "Needs pip install 'rnn-decoding[serve]'.",
        examples=("decoding serve shakespeare", "decoding serve a=one.onnx b=two.onnx --port 8080"),
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="NAME=FILE, a FILE, or the name of a shipped model")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    parser.add_argument("--port", type=int, metavar="N", default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"key that clients must send; better in the environment variable {_KEY}, which other users of the machine cannot see",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="rows that run together, in each worker (default: 128)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", default=1, help="threads with a batch each (default: %(default)s)"
    )
    parser.add_argument(
        "--max-queue",
        type=int,
        metavar="N",
        default=1024,
        help="requests that may wait for a slot (default: %(default)s)",
    )
    for flag, (kind, metavar, default, _, help) in _LIMITS.items():
        rare(
            parser.add_argument(
                flag, type=kind, metavar=metavar, default=default, help=f"{help} (default: %(default)s)"
            )
        )
    rare(
        parser.add_argument(
            "--allow-origin",
            action="append",
            default=[],
            metavar="URL",
            help="another site whose pages may use this server (CORS); may be given several times (default: none)",
        )
    )
    rare(
        parser.add_argument(
            "--log-level",
            choices=("debug", "info", "warning", "error"),
            metavar="LEVEL",
            default="info",
            help="debug, info, warning or error (default: %(default)s)",
        )
    )
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    least = {"--port": 0, "--workers": 1, "--max-queue": 1} | {flag: low for flag, (*_, low, _) in _LIMITS.items()}
    for flag, low in least.items():
        value = value_of(args, flag)
        if not low <= value < 2**31:
            raise OptionError(f"{flag} {value}: expected a number of at least {low}")
    key = args.api_key if args.api_key is not None else os.environ.get(_KEY)
    if key is not None and not key.strip():
        raise OptionError(f"--api-key, or {_KEY}: it is empty; leave it out to let everybody in")
    # What HTTP needs is an extra: the other commands work without it.
    serve, models, server = (import_module(f"decoding.serve{name}") for name in ("", ".models", ".server"))
    names = [field.name for field in fields(serve.Limits)]
    limits = {name: getattr(args, name if hasattr(args, name) else f"max_{name}") for name in names}
    app = serve.create_app(
        models.named_sources(args.models),
        limits=serve.Limits(**limits),
        settings=models.Settings(load_arguments(args), args.batch_size, args.max_queue, args.workers),
        api_key=key,
        allow_origins=tuple(args.allow_origin),
    )
    server.run(app, args.host, args.port, drain_seconds=args.drain_seconds, log_level=args.log_level)
