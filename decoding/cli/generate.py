"""`decoding generate`: continue a prompt."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from decoding.api import decode, stream
from decoding.cli._shared import add_executor, check_picture, read_prompt, write_picture
from decoding.errors import OptionError
from decoding.inputs.sources import source_tokens
from decoding.model.load import load
from decoding.model.model import Model
from decoding.results import Decoded, TokenEvent
from decoding.strategies import Beam, Greedy, Sample, Strategy
from decoding.tokenizers import TextStream


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt; the text is printed as it is made.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        default="shakespeare",
        help="an ONNX file, or a shipped model (default: shakespeare)",
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        help="text to continue (with an encoder: the text that it reads), or ids split by spaces where the model has no vocabulary; default: start from BOS, where the model has one",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--temperature", type=float, default=0.8, help="sampling temperature, above 0 (default: %(default)s)"
    )
    how.add_argument("--greedy", action="store_true", help="take the most probable token at every step")
    how.add_argument("--num-beams", type=int, metavar="N", help="beam search with N beams")
    parser.add_argument("--top-k", type=int, default=0, help="sample among the K most probable tokens only")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample among the most probable tokens that reach P")
    parser.add_argument("--n", type=int, default=1, help="number of outputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="key of the random draws; the same seed gives the same text")
    parser.add_argument("--max-new-tokens", type=int, help="longest output (default: the model's own, else 256)")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="write a picture too, of the kind that FILE ends in (.png, .svg, .pdf): the attention map of the best output where the model "
        "has attention, else with --num-beams how the beams grew, else the tokens shaded by their probability; needs matplotlib",
    )
    add_executor(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print one output as it is made, or several, or a beam search's, when all are finished."""
    model = load(args.model, executor=args.executor)
    prompt, strategy = read_prompt(model, args.prompt), _strategy(args)
    options: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "seed": args.seed}
    # A source is read, not continued: only a prompt belongs to the text.
    before = args.prompt or "" if model._network.encoders is None else ""
    if args.n == 1 and not isinstance(strategy, Beam) and args.plot is None:
        _print_stream(model, before, stream(model, prompt, strategy, **options))
        return
    options["num_return_sequences"] = args.n
    if args.plot is None:
        _print_outputs(model, before, decode(model, prompt, strategy, **options), args.n)
        return
    plot = check_picture(args.plot)
    trace = plot.BeamTrace()
    out = decode(model, prompt, strategy, **options | _wanted_by_plot(model, strategy, trace, args.n))
    _print_outputs(model, before, out, args.n)
    write_picture(_figure(plot, out, strategy, trace, source_tokens(model, prompt)), args.plot)


def _strategy(args: argparse.Namespace) -> Strategy:
    searches = "--greedy" if args.greedy else "--num-beams" if args.num_beams is not None else None
    if searches and (args.top_k or args.top_p < 1):
        raise OptionError(
            f"{searches}: it does not sample, so there is nothing for --top-k and --top-p to do; leave them out"
        )
    if args.num_beams is not None:
        return Beam(num_beams=args.num_beams)
    return Greedy() if args.greedy else Sample(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)


def _print_stream(model: Model, before: str, events: Iterator[TokenEvent]) -> None:
    pieces = _pieces(_text_after(model, before), events)
    # The first piece first: where something is wrong, nothing is printed but the error.
    print(before + next(pieces, ""), end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _text_after(model: Model, before: str) -> TextStream | None:
    """Return a stream of the text after a prompt, with the space that may be between them; None without a tokenizer."""
    tokenizer = model.tokenizer
    return None if tokenizer is None else TextStream.after(tokenizer, tokenizer.encode(before) if before else [])


def _pieces(text: TextStream | None, events: Iterable[TokenEvent]) -> Iterator[str]:
    for event in events:
        if event.finish_reason != "eos":
            yield f" {event.token}" if text is None else text.push(event.token)
    if text is not None:
        yield text.finish()


def _print_outputs(model: Model, before: str, out: Decoded, wanted: int) -> None:
    for number, hypothesis in enumerate(out[:wanted], 1):
        after, tokens = _text_after(model, before), hypothesis.tokens
        text = (
            " " + " ".join(map(str, tokens)) if after is None else "".join([*map(after.push, tokens), after.finish()])
        )
        heading = "" if wanted == 1 else f"--- {number} (log-probability {hypothesis.logprob:.2f})\n"
        print(f"{heading}{before}{text}")


def _wanted_by_plot(model: Model, strategy: Strategy, trace: Any, outputs: int) -> dict[str, Any]:
    """Return the options of decode() that the picture needs: attention where the model has it, else all beams."""
    if model._network.contract.attention is not None:
        return {"return_attention": True}
    if isinstance(strategy, Beam):
        return {"processors": [trace], "num_return_sequences": max(outputs, strategy.num_beams)}
    return {}


def _figure(plot: Any, out: Decoded, strategy: Strategy, trace: Any, source: Sequence[str] | None) -> Any:
    """Return the picture that suits the outputs."""
    weights = out[0].attention
    if weights is not None:
        return plot.attention(out[0], source if source and len(source) == weights.shape[1] else None)
    return plot.beam_tree(out, trace) if isinstance(strategy, Beam) else plot.tokens(out)
