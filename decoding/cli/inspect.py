"""`decoding inspect`: print the contract of a model."""

from __future__ import annotations

import argparse
from collections import Counter

from decoding.cli._shared import add_executor
from decoding.model.load import load
from decoding.model.model import Model


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "inspect",
        help="print a model's contract",
        description="Print what was found out about a model, and from what evidence.",
    )
    parser.add_argument("model", help="an ONNX file, or a shipped model")
    parser.add_argument(
        "--providers",
        metavar="NAME",
        help='print too which operators of a step onnxruntime runs where: "cpu" or "cuda"',
    )
    add_executor(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the model's contract, and with --providers where its operators run."""
    model = load(args.model, providers=args.providers, executor=args.executor)
    print(model.describe())
    if args.providers is not None:
        print("\n" + _placement_table(model))


def _placement_table(model: Model) -> str:
    """Return a table of the providers: how many operators of a step each runs, and of what kinds."""
    kinds: dict[str, Counter[str]] = {}
    for run in model._network.placement():
        kinds.setdefault(run.provider, Counter())[run.op] += 1
    rows = [("provider", "operators", "kinds")]
    for provider, ops in sorted(kinds.items(), key=lambda item: -item[1].total()):
        rows.append((provider, str(ops.total()), ", ".join(f"{op} {count}" for op, count in ops.most_common())))
    wide = max(len(row[0]) for row in rows)
    lines = [f"{provider.ljust(wide)}  {count:>9}  {ops}" for provider, count, ops in rows]
    uncaptured = model._network.device_step(None).uncaptured if model._network.on_device else ""
    return "\n".join([*lines, *([f"note: without CUDA graphs: {uncaptured}"] if uncaptured else [])])
