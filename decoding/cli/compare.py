"""`decoding compare`: how far two models of one vocabulary differ on a text."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.cli.shared.load_options import add_load_options, load_arguments
from decoding.cli.shared.parser import Parser
from decoding.cli.shared.prompts import read_sequences, read_sources
from decoding.cli.shared.tables import table
from decoding.cli.shared.timing import fitting_steps, least_times, sampling
from decoding.errors import OptionError
from decoding.export.distributions import next_logprobs
from decoding.inputs.requests import bos_ids
from decoding.inputs.requests import read_sequences as ids_of_sequences
from decoding.model.load import load
from decoding.model.model import Model

# Tokens of a piece of a long text: each piece starts from the initial state.
PIECE = 256
# Logits of one model that are held at once: 64 MiB of float32.
LOGITS = 1 << 24
BATCHES = (1, 64)


@dataclass(frozen=True)
class Comparison:
    """How far two models differ.

    Attributes:
        tokens: positions at which they were compared.
        mean_kl, worst_kl: of the next-token distributions, KL(A || B) in nats; `worst_at`: the sequence, and the token of it that is
            predicted there, both counted from 0.
        perplexities: of both on the text.
        agreement: the part of the positions at which both have the same most probable token.
    """

    tokens: int
    mean_kl: float
    worst_kl: float
    worst_at: tuple[int, int]
    perplexities: tuple[float, float]
    agreement: float


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "compare",
        help=help,
        usage="decoding compare A B --data FILE [options]",
        description="Compare two models of one vocabulary, such as one and its int8 form, on a text: the KL divergence of their "
        "next-token distributions in nats, perplexities, how often both have the same most probable token, size and speed. "
        "A long text is cut into pieces of 256 tokens, each read from the initial state.",
        examples=(
            "echo 'To be' | decoding compare shakespeare shakespeare --quantize-b --data -",
            "decoding generate tang 春 | decoding compare tang tang --quantize-b --data -",
        ),
    )
    parser.add_argument("model", metavar="A", help="an ONNX file, its folder, or a shipped model")
    parser.add_argument("other", metavar="B", help="the same, of the same vocabulary")
    parser.add_argument("--data", metavar="FILE", required=True, help="a text in UTF-8, or ids split by spaces; - reads standard input")  # fmt: skip
    parser.add_argument("--lines", action="store_true", help="each line of the text is a separate sequence")
    parser.add_argument("--sources", metavar="FILE", help="with an encoder: what it reads, a line for each line of FILE")  # fmt: skip
    parser.add_argument("--quantize-b", action="store_true", help="load B with int8 weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the differences as a table."""
    arguments = load_arguments(args)
    each = arguments, arguments | ({"quantize": "int8"} if args.quantize_b else {})
    models = load(args.model, **each[0]), load(args.other, **each[1])
    check_vocabularies(*models)
    texts, sequences = read_sequences(models[0], args.data, "--data", lines=args.lines or args.sources is not None)
    sources = read_sources(models[0], args.sources, len(texts), f"--data {args.data}")
    found = compare(*models, sequences, sources)
    alone: dict[str, Any] = {"encoder": [], "encoder_tokenizer": None}
    timed = [
        m if m._network.encoders is None else load(m.name, **of | alone) for m, of in zip(models, each, strict=True)
    ]
    times = [_microseconds(timed, batch) for batch in BATCHES]
    sizes = [model.weight_bytes for model in models]
    if args.json:
        facts = {
            "tokens": found.tokens,
            "mean_kl": found.mean_kl,
            "worst_kl": found.worst_kl,
            "agreement": found.agreement,
            "perplexities": found.perplexities,
            "weight_bytes": sizes,
            "microseconds_a_step": {str(batch): pair for batch, pair in zip(BATCHES, times, strict=True)},
        }
        print(json.dumps(facts))
        return
    rows = [
        ("perplexity", *(f"{p:.4f}" for p in found.perplexities)),
        ("bits a token", *(f"{math.log2(p):.4f}" for p in found.perplexities)),
        ("weights (MB)", *(f"{size / 1e6:.2f}" for size in sizes)),
        *(
            (f"step, {batch} rows (us)", *(f"{time:,.1f}" for time in pair))
            for batch, pair in zip(BATCHES, times, strict=True)
        ),
    ]
    print(f"A: {models[0].name}, {models[0].executor}\nB: {models[1].name}, {models[1].executor}")
    print(table(("", "A", "B"), rows, right=(1, 2)))
    sequence, token = found.worst_at
    print(f"KL(A || B) over {found.tokens} tokens: mean {found.mean_kl:.3g} nats, worst {found.worst_kl:.3g} (before token {token + 1} of sequence {sequence + 1})")  # fmt: skip
    print(f"the same most probable token: {found.agreement:.2%}")


def check_vocabularies(a: Model, b: Model) -> None:
    """Check that two models give the same tokens the same ids.

    Raises:
        OptionError: they do not; it names the first token that differs.
    """
    if a.vocab_size != b.vocab_size:
        raise OptionError(f"A and B: vocabularies of {a.vocab_size} and {b.vocab_size} tokens; compare models of one vocabulary")  # fmt: skip
    if a.tokenizer is not None and b.tokenizer is not None:
        for token in range(a.vocab_size):
            one, other = a.tokenizer.decode([token]), b.tokenizer.decode([token])
            if one != other:
                raise OptionError(f"A and B: id {token} is {one!r} in A and {other!r} in B; compare models of one vocabulary")  # fmt: skip


def compare(a: Model, b: Model, sequences: Sequence[Any], sources: Sequence[Any] | None = None) -> Comparison:
    """Compare the next-token distributions of two models at every token of given sequences.

    Args:
        sequences: texts or ids; a sequence needs two tokens, or one where the models have a BOS.
        sources: with encoders, what they read for each sequence.

    Raises:
        OptionError: there is no token to compare at.
    """
    total, count, worst, at, same = 0.0, 0, -1.0, (0, 0), 0
    logprobs = np.zeros(2)
    for places, ids, own_sources in _pieces(a, sequences, sources):
        one, other = (next_logprobs(model, ids, own_sources) for model in (a, b))
        for (number, first), row, p, q in zip(places, ids, one, other, strict=True):
            # 0 * log(0 / q) is 0: a token that A gives no probability adds nothing.
            kl = np.sum(np.exp(p) * np.subtract(p, q, out=np.zeros_like(p), where=np.isfinite(p)), axis=1)
            total, count = total + float(kl.sum()), count + len(kl)
            if kl.max() > worst:
                worst, at = float(kl.max()), (number, first + int(kl.argmax()))
            same += int((p.argmax(1) == q.argmax(1)).sum())
            steps = np.arange(len(p))
            logprobs += [p[steps, row[1:]].sum(), q[steps, row[1:]].sum()]
    if not count:
        raise OptionError("--data: nothing to compare: a sequence needs two tokens, or one where the models have a BOS")
    perplexities = np.exp(-logprobs / count).tolist()
    return Comparison(count, total / count, worst, at, (perplexities[0], perplexities[1]), same / count)


def _pieces(
    model: Model, sequences: Sequence[Any], sources: Sequence[Any] | None
) -> Iterator[tuple[list[tuple[int, int]], list[npt.NDArray[np.int64]], list[Any] | None]]:
    """Yield pieces of sequences, as many at a time as memory is taken for.

    Of each the number of its sequence and of the first token that it predicts, its ids, and its source.
    """
    read, _, _ = ids_of_sequences(model, sequences, sources, None, "compare")
    bos = bos_ids(model)
    longest = PIECE if model._network.encoders is None else max(map(len, read), default=1)
    pieces = []
    for number, ids in enumerate(read):
        for at in range(0, max(1, len(ids)), longest):
            piece = np.concatenate([bos, ids[at : at + longest]]).astype(np.int64)
            if len(piece) > 1:
                pieces.append(((number, at + 1 - len(bos)), piece))
    rows = max(1, LOGITS // (model.vocab_size * (longest + 1)))
    for at in range(0, len(pieces), rows):
        places = [place for place, _ in pieces[at : at + rows]]
        own = None if sources is None else [sources[number] for number, _ in places]
        yield places, [piece for _, piece in pieces[at : at + rows]], own


def _microseconds(models: Sequence[Model], batch: int) -> tuple[float, ...]:
    """Return the time of a step of each model, in turn."""
    steps = [fitting_steps(model, batch) for model in models]
    times = least_times([sampling(model, batch, n) for model, n in zip(models, steps, strict=True)], 5)
    return tuple(1e6 * time / n for time, n in zip(times, steps, strict=True))
