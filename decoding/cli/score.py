"""`decoding score`: print how probable a text is under a model."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from decoding import jobs
from decoding.api import score
from decoding.cli.shared.job_options import add_job_options, job_options, print_report, stoppable
from decoding.cli.shared.load_options import add_load_options, load_model
from decoding.cli.shared.parser import Parser, rare, value_of
from decoding.cli.shared.pictures import check_picture, write_picture
from decoding.cli.shared.prompts import read_sequences, read_sources
from decoding.errors import OptionError
from decoding.model.model import Model
from decoding.tokenizers import token_texts


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "score",
        help=help,
        usage="decoding score MODEL FILE [OUTPUT] [options]",
        description="Print how probable a model finds a text: its log-probability, perplexity and bits a token. With OUTPUT, score the "
        "rows of FILE into a file; run it again to resume after a stop.",
        examples=(
            'decoding generate shakespeare "ROMEO:" | decoding score shakespeare - --lines',
            "decoding score shakespeare lines.txt scores.jsonl",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, its folder, or a shipped model")
    parser.add_argument("file", metavar="FILE", help="the text, a sequence a line with --lines; - reads standard input")
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        nargs="?",
        help="a .jsonl or .parquet file: FILE (text, .jsonl, .csv, .parquet) is then read row by row",
    )
    add_job_options(parser.add_argument_group("rows of OUTPUT"))
    rare(parser.add_argument("--seed", type=int, metavar="N", help="key of latents, where the model draws some"))
    parser.add_argument("--lines", action="store_true", help="score every line separately")
    parser.add_argument(
        "--sources", metavar="FILE", help="with an encoder: what it reads, a line for each line of FILE"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line for each sequence")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the tokens, shaded by their probability (.png, .svg, .pdf)"
    )
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the log-probability of each line with --lines or --json, and the perplexity of all; or score the rows of a file into another."""
    if args.output is not None:
        _run_job(args)
        return
    if wrong := [flag for flag in ("--column", "--id-column", "--strict", "--token-logprobs") if value_of(args, flag)]:
        raise OptionError(f"{wrong[0]}: it applies to the rows of OUTPUT; pass OUTPUT too, or leave the option out")
    model = load_model(args)
    texts, sequences = read_sequences(model, args.file, "FILE", lines=args.lines or args.sources is not None)
    sources = read_sources(model, args.sources, len(texts), f"FILE {args.file}")
    plot = None if args.plot is None else check_picture(args.plot)
    options = {"prompts": sources, "seed": args.seed, "batch_size": args.batch_size}
    scores = score(model, cast(Any, sequences), **options) if any(sequences) else []
    logprobs = [float(np.nansum(values, dtype=np.float64)) for values in scores]
    counts = [int(np.isfinite(values).sum()) for values in scores]
    if not sum(counts):
        raise OptionError(
            f"FILE {args.file}: nothing to score: a sequence needs two tokens, or one where the model has a BOS"
        )
    for text, values, logprob, count in zip(texts, scores, logprobs, counts, strict=True):
        if args.json:
            print(json.dumps(_facts(text, values, logprob, count), ensure_ascii=False))
        elif args.lines:
            print(f"{logprob:.4f}\t{text}" if count else f"-\t{text}")
    if not args.json:
        mean = sum(logprobs) / sum(counts)
        print(
            f"{sum(counts)} tokens, log-probability {sum(logprobs):.4f}, perplexity {math.exp(-mean):.4f}, {-mean / math.log(2):.4f} bits a token"
        )
    if plot is not None:
        write_picture(plot.tokens(*_scored_tokens(model, sequences, scores)), args.plot)


def _run_job(args: argparse.Namespace) -> None:
    if wrong := [flag for flag in ("--lines", "--sources", "--plot") if value_of(args, flag)]:
        raise OptionError(f"{wrong[0]}: not with OUTPUT, whose rows are those of FILE; leave it out")
    model = load_model(args)
    with stoppable(args.output):
        report = jobs.score(model, args.file, args.output, seed=args.seed, **job_options(args))
    print_report(report, args.output, as_json=args.json)


def _facts(text: str, values: Any, logprob: float, count: int) -> dict[str, Any]:
    """Return what --json prints of a sequence; null is a token that nothing comes before, or one of probability 0."""
    return {
        "text": text,
        "scored_tokens": count,
        "logprob": logprob if math.isfinite(logprob) else None,
        "perplexity": math.exp(-logprob / count) if count and math.isfinite(logprob) else None,
        "token_logprobs": [value if math.isfinite(value) else None for value in values.tolist()],
    }


def _scored_tokens(model: Model, sequences: Sequence[Any], scores: Sequence[Any]) -> tuple[list[str], list[float]]:
    """Return texts and log-probabilities of the tokens of all sequences, with a line's end between two sequences."""
    texts: list[str] = []
    logprobs: list[float] = []
    for sequence, values in zip(sequences, scores, strict=True):
        if texts:
            texts, logprobs = [*texts, "\n"], [*logprobs, math.nan]
        ids = sequence if model.tokenizer is None else model.tokenizer.encode(sequence)
        texts += [f"{token} " for token in ids] if model.tokenizer is None else token_texts(model.tokenizer, ids)
        logprobs += values.tolist()
    return texts, logprobs
