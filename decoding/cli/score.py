"""`decoding score`: print how probable a text is under a model."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from decoding.api import score
from decoding.cli._shared import add_executor, check_picture, read_prompt, write_picture
from decoding.errors import OptionError
from decoding.model.load import load
from decoding.model.model import Model
from decoding.tokenizers import token_texts


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "score", help="log-probability and perplexity of a text", description="Print how probable a model finds a text."
    )
    parser.add_argument("model", help="an ONNX file, or a shipped model")
    parser.add_argument("file", help="the text, a sequence a line with --lines; - reads standard input")
    parser.add_argument("--lines", action="store_true", help="score every line by itself")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="write a picture of the tokens shaded by their probability, of the kind that FILE ends in (.png, .svg, .pdf); needs matplotlib",
    )
    add_executor(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the log-probability of each line with --lines, and the perplexity of all."""
    model = load(args.model, executor=args.executor)
    if model._network.encoders is not None:
        raise OptionError(
            f"{model.name} has an encoder, whose sources `decoding score` cannot be given; in Python: score(model, sequences, prompts=sources)"
        )
    texts, sequences = _read_texts(model, args.file, args.lines)
    plot = None if args.plot is None else check_picture(args.plot)
    scores = score(model, cast(Any, sequences)) if sequences else []
    total, count = _print_lines(texts, scores, args.lines)
    if not count:
        raise OptionError(
            f"FILE {args.file}: nothing to score: a sequence needs two tokens, or one where the model has a BOS"
        )
    bits = -total / count / math.log(2)
    print(
        f"{count} tokens, log-probability {total:.4f}, perplexity {math.exp(-total / count):.4f}, {bits:.4f} bits a token"
    )
    if plot is not None:
        write_picture(plot.tokens(*_scored_tokens(model, sequences, scores)), args.plot)


def _read_texts(model: Model, file: str, lines: bool) -> tuple[list[str], list[Any]]:
    """Return the texts of a file (or of standard input: "-") that are not empty, and each as score() takes it.

    Raises:
        OptionError: the file cannot be read.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"FILE {file}: cannot be read: {error}; give a text file in UTF-8") from error
    texts = [line for line in text.splitlines() if line] if lines else [text]
    read = [(text, sequence) for text in texts if (sequence := read_prompt(model, text, "FILE"))]
    return [text for text, _ in read], [sequence for _, sequence in read]


def _print_lines(texts: Sequence[str], scores: Sequence[Any], shown: bool) -> tuple[float, int]:
    """Return the log-probability of all texts and the number of scored tokens; print each text's, where `shown`."""
    total, count = 0.0, 0
    for text, values in zip(texts, scores, strict=True):
        logprob, scored = float(np.nansum(values, dtype=np.float64)), int(np.isfinite(values).sum())
        total, count = total + logprob, count + scored
        if shown:
            print(f"{logprob:.4f}\t{text}" if scored else f"-\t{text}")
    return total, count


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
