"""`decoding bench`: how fast a model decodes on this machine, and how to run it fastest."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from decoding.cli.shared.load_options import add_load_options, load_arguments
from decoding.cli.shared.parser import Parser
from decoding.cli.shared.strategy_options import ids_of
from decoding.cli.shared.tables import table
from decoding.cli.shared.timing import fitting_steps, least_times, network, sampling
from decoding.errors import DecodingError, OptionError
from decoding.model.load import load
from decoding.model.model import Model

# What load() takes as quantize= and as executor=.
WEIGHTS: tuple[Any, ...] = (None, "int8")
EXECUTORS: tuple[Any, ...] = ("native", "onnxruntime")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        executor, weights, batch: what ran: by what, with which numbers, how many rows together.
        step: microseconds of a step of all rows, the choice of their tokens included.
        tokens: tokens a second.
        network: the part of the step's time that the network alone takes, at most 1.
    """

    executor: str
    weights: str
    batch: int
    step: float
    tokens: float
    network: float


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "bench",
        help=help,
        usage="decoding bench MODEL [options]",
        description="Measure plain sampling in one thread: the time of a step and the tokens a second by batch size, in float32 and int8, "
        "by each executor, and how much of it is the network. Contexts are random numbers, of 16 positions; encoders do not run.",
        examples=("decoding bench shakespeare --batch 1,16", "decoding bench dates --batch 4 --rounds 2 --json"),
    )
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, its folder, or a shipped model")
    parser.add_argument(
        "--batch", default="1,8,64,256", metavar="LIST", help="rows that run together (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each, in turn; the least time counts (default: 5)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object a line for each measurement")
    add_load_options(parser, without=("quantize", "executor", "encoder", "encoder_tokenizer"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print a table of the measurements, and a recommendation."""
    batches = ids_of(args.batch, "--batch", "sizes split by commas, such as 1,8,64")
    if not batches or min(batches) < 1 or args.rounds < 1:
        raise OptionError(f"--batch {args.batch}, --rounds {args.rounds}: expected numbers of at least 1")
    models, refused = _models(args.model, load_arguments(args))
    rows = [row for batch in batches for row in measure(models, batch, args.rounds)]
    if args.json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    first = next(iter(models.values()))
    print(f"{first.name}: weights {first.weight_bytes / 1e6:.1f} MB, vocabulary {first.vocab_size}; {os.cpu_count()} cores, one used")  # fmt: skip
    cells = [
        (r.executor, r.weights, str(r.batch), f"{r.step:,.1f}", f"{r.tokens:,.0f}", f"{r.network:.0%}") for r in rows
    ]
    print(table(("executor", "weights", "batch", "step (us)", "tokens/s", "network"), cells, right=(2, 3, 4, 5)))
    for reason in refused:
        print(f"not measured: {reason}")
    print("\n".join(recommendation(rows, models)))


def measure(models: dict[tuple[str, str], Model], batch: int, rounds: int) -> list[Row]:
    """Return a row for each model at one batch size; all run in turn."""
    steps = {key: fitting_steps(model, batch) for key, model in models.items()}
    calls = [make(model, batch, steps[key]) for make in (sampling, network) for key, model in models.items()]
    times = least_times(calls, rounds)
    whole, alone = times[: len(models)], times[len(models) :]
    return [
        Row(*key, batch, 1e6 * time / steps[key], batch * steps[key] / time, min(1.0, own / time))
        for key, time, own in zip(models, whole, alone, strict=True)
    ]


def recommendation(rows: Sequence[Row], models: dict[tuple[str, str], Model]) -> list[str]:
    """Return what to pass to load(), for one sequence and for many, as lines."""
    lines = []
    smallest = min(row.batch for row in rows)
    for what, chosen in (
        ("shortest step", min((row for row in rows if row.batch == smallest), key=lambda row: row.step)),
        ("most tokens a second", max(rows, key=lambda row: row.tokens)),
    ):
        exact = [row for row in rows if row.batch == chosen.batch and row.weights == "float32"]
        best = min(exact, key=lambda row: row.step)
        lines.append(
            f"{what}: batch {best.batch}, executor={best.executor!r}: {best.step:,.1f} us a step, {best.tokens:,.0f} tokens/s"
        )
        if chosen.weights == "int8":
            gain = chosen.tokens / best.tokens
            lines.append(f"  with quantize='int8', executor={chosen.executor!r}: {gain:.1f} times as fast")
    moved = [
        note for model in models.values() for note in model._network.contract.notes if note.startswith("int8 moves")
    ]
    return [*dict.fromkeys(lines), *moved[:1]]


def _models(source: Any, arguments: dict[str, Any]) -> tuple[dict[tuple[str, str], Model], list[str]]:
    """Return the model by every executor and with every kind of weights that it can have, and why others are missing.

    Raises:
        DecodingError: it cannot be loaded at all.
    """
    given = {"threads": 1, **{name: value for name, value in arguments.items() if value is not None}, "encoder": []}
    models = {("onnxruntime", "float32"): load(source, **given, executor="onnxruntime")}
    refused: list[str] = []
    for weights, executor in itertools.product(WEIGHTS, EXECUTORS):
        key = (executor, weights or "float32")
        if key not in models:
            try:
                models[key] = load(source, **given, executor=executor, quantize=weights)
            except DecodingError as error:
                refused.append(f"{executor}: {error}")
    return dict(sorted(models.items())), list(dict.fromkeys(refused))
