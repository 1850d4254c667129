"""The command line: `decoding generate`, `decoding score` and `decoding inspect`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np

import decoding
from decoding.api import decode, score, stream
from decoding.errors import DecodingError, OptionError
from decoding.inputs.sources import source_tokens
from decoding.model.load import load
from decoding.model.model import Model
from decoding.results import Decoded, TokenEvent
from decoding.strategies import Beam, Greedy, Sample, Strategy
from decoding.tokenizers import token_texts


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 after an error of ours, 2 after wrong usage, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except DecodingError as error:
        print(f"decoding: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has left; point stdout elsewhere so that the flush at exit is quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decoding", description="Decode recurrent ONNX models.")
    parser.add_argument("--version", action="version", version=f"rnn-decoding {decoding.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate = commands.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt; the text is printed as it is made.",
    )
    generate.add_argument(
        "model",
        nargs="?",
        default="shakespeare",
        help="an ONNX file, or a shipped model (default: shakespeare)",
    )
    generate.add_argument(
        "prompt",
        nargs="?",
        help="text to continue (with an encoder: the text that it reads), or ids split by spaces where the model has no vocabulary; default: start from BOS, where the model has one",
    )
    how = generate.add_mutually_exclusive_group()
    how.add_argument(
        "--temperature", type=float, default=0.8, help="sampling temperature, above 0 (default: %(default)s)"
    )
    how.add_argument("--greedy", action="store_true", help="take the most probable token at every step")
    how.add_argument("--num-beams", type=int, metavar="N", help="beam search with N beams")
    generate.add_argument("--top-k", type=int, default=0, help="sample among the K most probable tokens only")
    generate.add_argument("--top-p", type=float, default=1.0, help="sample among the most probable tokens that reach P")
    generate.add_argument("--n", type=int, default=1, help="number of outputs (default: %(default)s)")
    generate.add_argument("--seed", type=int, help="key of the random draws; the same seed gives the same text")
    generate.add_argument("--max-new-tokens", type=int, help="longest output (default: the model's own, else 256)")
    generate.add_argument(
        "--plot",
        metavar="FILE",
        help="write a picture too, of the kind that FILE ends in (.png, .svg, .pdf): the attention map of the best output where the model "
        "has attention, else with --num-beams how the beams grew, else the tokens shaded by their probability; needs matplotlib",
    )
    generate.set_defaults(run=_generate)
    scored = commands.add_parser(
        "score", help="log-probability and perplexity of a text", description="Print how probable a model finds a text."
    )
    scored.add_argument("model", help="an ONNX file, or a shipped model")
    scored.add_argument("file", help="the text, a sequence a line with --lines; - reads standard input")
    scored.add_argument("--lines", action="store_true", help="score every line by itself")
    scored.add_argument(
        "--plot",
        metavar="FILE",
        help="write a picture of the tokens shaded by their probability, of the kind that FILE ends in (.png, .svg, .pdf); needs matplotlib",
    )
    scored.set_defaults(run=_score)
    inspect = commands.add_parser(
        "inspect",
        help="print a model's contract",
        description="Print what was found out about a model, and from what evidence.",
    )
    inspect.add_argument("model", help="an ONNX file, or a shipped model")
    inspect.add_argument(
        "--providers",
        metavar="NAME",
        help='print too which operators of a step onnxruntime runs where: "cpu" or "cuda"',
    )
    inspect.set_defaults(run=_inspect)
    return parser


def _generate(args: argparse.Namespace) -> None:
    model = load(args.model)
    prompts = _prompt(model, args.prompt)
    strategy = _strategy(args)
    options: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "seed": args.seed}
    alone = args.n == 1 and not isinstance(strategy, Beam)
    if alone and args.plot is None:
        pieces = _pieces(stream(model, prompts, strategy, **options))
        # The first piece first: where something is wrong, nothing is printed but the error.
        print(_continued(model, args) + next(pieces, ""), end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return
    options["num_return_sequences"] = args.n
    if args.plot is not None:
        plot = _plot_to(args.plot)
        trace = plot.BeamTrace()
        options |= _wanted_by_plot(model, strategy, trace, args.n)
    out = decode(model, prompts, strategy, **options)
    for number, hypothesis in enumerate(out[: args.n], 1):
        body = hypothesis.text if hypothesis.text is not None else " " + " ".join(map(str, hypothesis.tokens))
        heading = "" if args.n == 1 else f"--- {number} (log-probability {hypothesis.logprob:.2f})\n"
        print(f"{heading}{_continued(model, args)}{body}")
    if args.plot is not None:
        _write(_figure(plot, out, strategy, trace, source_tokens(model, prompts)), args.plot)


def _wanted_by_plot(model: Model, strategy: Strategy, trace: Any, outputs: int) -> dict[str, Any]:
    """The options of decode() without which there would be nothing to draw: attention if there is any, else all beams."""
    if model.contract.attention is not None:
        return {"return_attention": True}
    if isinstance(strategy, Beam):
        return {"processors": [trace], "num_return_sequences": max(outputs, strategy.num_beams)}
    return {}


def _figure(plot: Any, out: Decoded, strategy: Strategy, trace: Any, source: Sequence[str] | None) -> Any:
    """The picture that suits what a run has."""
    weights = out[0].attention
    if weights is not None:
        return plot.attention(out[0], source if source and len(source) == weights.shape[1] else None)
    return plot.beam_tree(out, trace) if isinstance(strategy, Beam) else plot.tokens(out)


def _plot_to(file: str) -> Any:
    """`decoding.plot`, after seeing that a picture can be written to this file: before the work rather than after.

    Raises:
        OptionError: matplotlib is not installed, or there is no such folder or kind of picture.
    """
    plot = decoding.plot
    kinds = import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if Path(file).suffix.removeprefix(".").lower() not in kinds:
        raise OptionError(f"--plot {file}: expected a name that ends in .{', .'.join(sorted(kinds))}")
    if not Path(file).parent.is_dir():
        raise OptionError(f"--plot {file}: there is no folder {Path(file).parent}")
    return plot


def _write(figure: Any, file: str) -> None:
    try:
        figure.savefig(file)
    except OSError as error:
        raise OptionError(f"--plot {file}: cannot be written: {error}") from error


def _strategy(args: argparse.Namespace) -> Strategy:
    searches = "--greedy" if args.greedy else "--num-beams" if args.num_beams is not None else None
    if searches and (args.top_k or args.top_p < 1):
        raise OptionError(
            f"{searches}: it does not sample, so there is nothing for --top-k and --top-p to do; leave them out"
        )
    if args.num_beams is not None:
        return Beam(num_beams=args.num_beams)
    return Greedy() if args.greedy else Sample(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)


def _continued(model: Model, args: argparse.Namespace) -> str:
    """What stands before the output: the prompt that it continues; a source is not continued."""
    return args.prompt or "" if model.encoders is None else ""


def _prompt(model: Model, prompt: str | None, name: str = "PROMPT") -> str | list[int] | None:
    """The prompt as decode() takes it: without a vocabulary it is ids."""
    if model.encoders is not None:
        if prompt is None:
            raise OptionError(f"PROMPT: {model.name} has an encoder; give a source for it to read")
        if next(iter(model.encoders)).tokenizer is not None:
            return prompt
    if prompt is None and model.bos_token_id is None:
        raise OptionError(f"PROMPT: {model.name} has no BOS to start from; give a prompt to continue")
    if prompt is None or model.tokenizer is not None:
        return prompt
    try:
        return [int(word) for word in prompt.split()]
    except ValueError as error:
        raise OptionError(
            f"{name} {shorten(prompt, 40)!r}: {model.name} has no vocabulary; give ids split by spaces, such as '3 17 4'"
        ) from error


def _pieces(events: Iterator[TokenEvent]) -> Iterator[str]:
    for event in events:
        if event.text is not None:
            yield event.text
        elif event.finish_reason != "eos":
            yield f" {event.token}"


def _score(args: argparse.Namespace) -> None:
    model = load(args.model)
    if model.encoders is not None:
        raise OptionError(
            f"{model.name} has an encoder, whose sources `decoding score` cannot be given; in Python: score(model, sequences, prompts=sources)"
        )
    try:
        text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"FILE {args.file}: cannot be read: {error}; give a text file in UTF-8") from error
    texts = [line for line in text.splitlines() if line] if args.lines else [text]
    sequences = {text: ids for text in texts if (ids := _prompt(model, text, "FILE"))}
    texts = [text for text in texts if text in sequences]
    plot = None if args.plot is None else _plot_to(args.plot)
    total, count = 0.0, 0
    values_of = score(model, cast(Any, [sequences[text] for text in texts])) if texts else []
    for shown, values in zip(texts, values_of, strict=True):
        logprob, scored = float(np.nansum(values, dtype=np.float64)), int(np.isfinite(values).sum())
        total, count = total + logprob, count + scored
        if args.lines:
            print(f"{logprob:.4f}\t{shown}" if scored else f"-\t{shown}")
    if not count:
        raise OptionError(
            f"FILE {args.file}: nothing to score: a sequence needs two tokens, or one where the model has a BOS"
        )
    bits = -total / count / math.log(2)
    print(
        f"{count} tokens, log-probability {total:.4f}, perplexity {math.exp(-total / count):.4f}, {bits:.4f} bits a token"
    )
    if plot is not None:
        _write(plot.tokens(*_scored_tokens(model, [sequences[text] for text in texts], values_of)), args.plot)


def _scored_tokens(model: Model, sequences: Sequence[Any], values_of: Sequence[Any]) -> tuple[list[str], list[float]]:
    """Texts and log-probabilities of the tokens of all sequences, a line's end behind each but the last."""
    texts: list[str] = []
    logprobs: list[float] = []
    for sequence, values in zip(sequences, values_of, strict=True):
        if texts:
            texts, logprobs = [*texts, "\n"], [*logprobs, math.nan]
        ids = sequence if model.tokenizer is None else model.tokenizer.encode(sequence)
        texts += [f"{token} " for token in ids] if model.tokenizer is None else token_texts(model.tokenizer, ids)
        logprobs += values.tolist()
    return texts, logprobs


def _inspect(args: argparse.Namespace) -> None:
    model = load(args.model, providers=args.providers)
    print(model.describe())
    if args.providers is not None:
        print("\n" + placement_table(model))


def placement_table(model: Model) -> str:
    """Which provider runs how many operators of a step, and of what kinds."""
    kinds: dict[str, Counter[str]] = {}
    for run in model.placement():
        kinds.setdefault(run.provider, Counter())[run.op] += 1
    rows = [("provider", "operators", "kinds")]
    for provider, ops in sorted(kinds.items(), key=lambda item: -item[1].total()):
        rows.append((provider, str(ops.total()), ", ".join(f"{op} {count}" for op, count in ops.most_common())))
    wide = max(len(row[0]) for row in rows)
    lines = [f"{provider.ljust(wide)}  {count:>9}  {ops}" for provider, count, ops in rows]
    uncaptured = model.device_step(None).uncaptured if model.on_device else ""
    return "\n".join([*lines, *([f"note: without CUDA graphs: {uncaptured}"] if uncaptured else [])])
