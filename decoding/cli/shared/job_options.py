"""The options of commands that make a file of another: `batch`, and `score` with OUTPUT."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from decoding.cli.shared.parser import rare
from decoding.jobs import Report


def add_job_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that `job_options()` reads."""
    for flag, options in {
        "--column": {"metavar": "NAME", "help": 'of a .csv or .parquet file (default: "prompt", or the only one)'},
        "--id-column": {"metavar": "NAME", "help": 'of the ids (default: "id", else rows are numbered from 0)'},
        "--batch-size": {"type": int, "metavar": "N", "help": "rows that run together (default: at most 128)"},
        "--strict": {
            "action": "store_true",
            "help": "end at the first bad row (default: it goes to OUTPUT.errors.jsonl)",
        },
        "--token-logprobs": {"action": "store_true", "help": "write the log-probability of each token too"},
    }.items():
        rare(group.add_argument(flag, **options))  # type: ignore[arg-type]


def job_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that all jobs have; the progress bar is for a terminal."""
    return {
        "column": args.column,
        "id_column": args.id_column,
        "batch_size": args.batch_size,
        "strict": args.strict,
        "token_logprobs": args.token_logprobs,
        "progress": sys.stderr.isatty(),
    }


def print_report(report: Report, output: str, *, as_json: bool) -> None:
    """Print what a job did; where its bad rows are goes to standard error."""
    if as_json:
        print(json.dumps({"output": output, **asdict(report)}))
    else:
        speed = f" in {report.seconds:.1f} s, {report.tokens / max(report.seconds, 1e-9):.0f} tokens/s"
        new = f"{report.sequences} sequences written{speed}" if report.sequences else "nothing was left to do"
        seed = "" if report.seed is None else f"; seed {report.seed}"
        print(f"{output}: {report.rows} rows; {new}{seed}")
    if report.failed:
        rows = "1 bad row is" if report.failed == 1 else f"{report.failed} bad rows are"
        print(f"decoding: {rows} in {output}.errors.jsonl", file=sys.stderr)
