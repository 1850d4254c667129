"""`decoding batch`: decode every row of a file into another."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from decoding import jobs
from decoding.cli.shared.job_options import add_job_options, job_options, print_report, stoppable
from decoding.cli.shared.load_options import add_load_options, load_arguments, load_model
from decoding.cli.shared.parser import Parser, rare
from decoding.cli.shared.prompts import read_prefix
from decoding.cli.shared.strategy_options import (
    add_decode_options,
    add_strategy_options,
    decode_options,
    strategy_of,
)


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "batch",
        help=help,
        usage="decoding batch MODEL [INPUT] OUTPUT [options]",
        description="Decode every row of a file into another. Run it again to resume after a stop.",
        examples=(
            "decoding batch shakespeare prompts.txt out.jsonl --top-p 0.9 --seed 7",
            "decoding batch molecules.onnx out.parquet --num 30000 --seed 1",
        ),
    )
    group = parser.add_argument_group("files")
    group.add_argument("model", metavar="MODEL", help="an ONNX file, its folder, or a shipped model")
    group.add_argument(
        "input",
        metavar="INPUT",
        nargs="?",
        help="a text file with a prompt on each line, or a .jsonl, .csv or .parquet file",
    )
    group.add_argument("output", metavar="OUTPUT", help="a .jsonl or .parquet file")
    group.add_argument("--num", type=int, metavar="N", help="without INPUT: sequences to make, from BOS or noise")
    add_job_options(group)
    output = add_decode_options(parser)
    rare(
        output.add_argument(
            "--workers",
            type=int,
            metavar="N",
            help="threads with a batch each (default: by the network); with --ray, actors",
        )
    )
    rare(
        output.add_argument(
            "--ray",
            nargs="?",
            const="",
            metavar="ADDRESS",
            help="decode on a Ray cluster (default: RAY_ADDRESS, else here)",
        )
    )
    rare(output.add_argument("--json", action="store_true", help="print the report as JSON"))
    rare(output.add_argument("--prefix", metavar="TEXT", help="with an encoder: the decoder's first tokens"))
    add_strategy_options(parser)
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Decode the rows, and print the report."""
    model, strategy = load_model(args), strategy_of(args)
    options: dict[str, Any] = {**job_options(args), **decode_options(args, model), "num": args.num}
    options["prefix"] = read_prefix(model, args.prefix)
    with stoppable(args.output):
        if args.ray is None:
            report = jobs.run(model, args.input, args.output, strategy, workers=args.workers, **options)
        else:
            ray = import_module("decoding.jobs.ray")
            where = {"address": args.ray or None, "actors": args.workers, "load_options": load_arguments(args)}
            report = ray.run(args.model, args.input, args.output, strategy, **where, **options)
    print_report(report, args.output, as_json=args.json)
