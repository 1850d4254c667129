"""The options of commands that make a file of another: `batch`, and `score` with OUTPUT."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
            "help": "end at the first bad row, also of an earlier run (default: it goes to OUTPUT.errors.jsonl)",
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


@contextmanager
def stoppable(output: str) -> Iterator[None]:
    """Say after Ctrl-C and SIGTERM that the job can go on; the exit statuses are 130 and 143."""
    in_main = threading.current_thread() is threading.main_thread()  # where alone signals are handled
    before = signal.signal(signal.SIGTERM, _end) if in_main else None
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(f"decoding: {output}: stopped; run the same command again to resume", file=sys.stderr)
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def print_report(report: Report, output: str, *, as_json: bool) -> None:
    """Print what a job did; where its bad rows are goes to standard error."""
    if as_json:
        print(json.dumps({"output": output, **asdict(report)}))
    else:
        speed = f" in {report.seconds:.1f} s, {report.tokens / max(report.seconds, 1e-9):.0f} tokens/s"
        new = f"{report.sequences} sequences written{speed}" if report.sequences else "no new sequences"
        seed = "" if report.seed is None else f"; seed {report.seed}"
        print(f"{output}: {report.rows} rows; {new}{seed}")
    if report.failed:
        rows = "1 bad row is" if report.failed == 1 else f"{report.failed} bad rows are"
        print(f"decoding: {rows} in {output}.errors.jsonl", file=sys.stderr)
