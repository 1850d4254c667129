"""`decoding generate`: continue a prompt."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from decoding.api import decode, stream
from decoding.cli.models import DEFAULT_MODEL, SHIPPED, is_model
from decoding.cli.shared.load_options import add_load_options, load_model
from decoding.cli.shared.parser import Parser, rare
from decoding.cli.shared.pictures import check_picture, write_picture
from decoding.cli.shared.prompts import read_arrays, read_prefix, read_prompt, read_text
from decoding.cli.shared.strategy_options import (
    add_decode_options,
    add_strategy_options,
    decode_options,
    strategy_of,
)
from decoding.errors import OptionError, shown
from decoding.inputs.sources import source_tokens
from decoding.model.model import Model
from decoding.results import Decoded, Hypothesis, TokenEvent
from decoding.strategies import Beam, Strategy
from decoding.tokenizers import TextStream


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "generate",
        help=help,
        usage="decoding generate [MODEL] [PROMPT] [options]",
        description="Continue a prompt, and print the text as it is made.",
        examples=(
            'decoding generate shakespeare "ROMEO:" --temperature 0.7 --max-new-tokens 80',
            'decoding generate dates "3 mai 2026" --num-beams 4 --json',
        ),
    )
    group = parser.add_argument_group("what to continue")
    group.add_argument(
        "model", metavar="MODEL", nargs="?", help="an ONNX file or a shipped model (default: shakespeare)"
    )
    group.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        help="text or ids to continue; with an encoder, its source: text, ids, or an array in FILE.npy",
    )
    group.add_argument("--file", metavar="FILE", help="a file with a prompt on each line; - is standard input")
    rare(group.add_argument("--prefix", metavar="TEXT", help="the decoder's first tokens, where an encoder reads PROMPT"))  # fmt: skip
    rare(group.add_argument("--context", metavar="FILE", help="arrays for the network's other inputs, [prompts, ...]: an .npy file, or an .npz file with the inputs' names"))  # fmt: skip
    rare(group.add_argument("--latents", metavar="FILE", help="noise to use instead of drawn noise, [outputs, ...]: a file as for --context"))  # fmt: skip
    output = add_decode_options(parser)
    output.add_argument("--json", action="store_true", help="print a JSON object a line for each output")
    rare(output.add_argument("--plot", metavar="FILE", help="draw the attention, the beams or the tokens' probabilities, too (.png, .svg, .pdf)"))  # fmt: skip
    add_strategy_options(parser)
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print one output as it is made, or several, or a beam search's, when all are finished."""
    strategy = strategy_of(args)
    prompts = _prompts(args)
    model = load_model(args)
    given = {name: read_arrays(file, f"--{name}") for name in ("context", "latents") if (file := getattr(args, name))}
    options = {**decode_options(args, model), **given, "prefix": read_prefix(model, args.prefix)}
    sources: Any = [read_prompt(model, prompt) for prompt in prompts]
    if len(sources) == 1:
        (sources,) = sources
    alone = len(prompts) == 1 and args.n == 1
    # A source is read, not continued: only a prompt belongs to the text.
    before = ["" if model._network.encoders is not None or prompt is None else prompt for prompt in prompts]
    if alone and not strategy.searches_together and args.plot is None and not args.json:
        _print_stream(model, before[0], stream(model, sources, strategy, **options))
        return
    plot = None if args.plot is None else check_picture(args.plot)
    trace = None if plot is None else plot.BeamTrace()
    wanted = {} if plot is None else _wanted_by_plot(model, strategy, trace, options)
    out = decode(model, sources, strategy, **options | wanted)
    shown = [hypothesis for hypothesis in out if hypothesis.rank < args.n]
    if args.json:
        for hypothesis in shown:
            print(json.dumps(hypothesis.to_dict(), ensure_ascii=False))
    else:
        _print_outputs(model, before, shown, headings=not alone)
    if plot is not None:
        write_picture(_figure(plot, out, strategy, trace, source_tokens(model, sources)), args.plot)


def _prompts(args: argparse.Namespace) -> list[str | None]:
    """Return the prompts of the command line; where it has neither a model nor a prompt, it gets both.

    Raises:
        OptionError: a prompt was taken for a model, or there are prompts from two places.
    """
    if args.file is not None:
        if args.prompt is not None:
            raise OptionError(f"PROMPT {shown(args.prompt)} and --file {args.file}: pass only one of them")
        if args.plot is not None:
            raise OptionError("--file and --plot: a picture shows one prompt; leave one out")
    if args.model is None:
        args.model = DEFAULT_MODEL
    elif args.prompt is None and not is_model(args.model):
        where = "" if args.file is None else " (and --file has the prompts)"
        raise OptionError(
            f"MODEL {shown(args.model)}: no such file, and no shipped model{where}; a prompt comes after the model: "
            f"decoding generate {DEFAULT_MODEL} {shlex.quote(args.model)}"
        )
    if args.file is not None:
        if lines := [line for line in read_text(args.file, "--file").splitlines() if line]:
            return list(lines)
        raise OptionError(f"--file {args.file}: it has no prompts; write one a line")
    if args.prompt is None and args.model in SHIPPED and SHIPPED[args.model].prompt is not None:
        args.prompt = SHIPPED[args.model].prompt
        print(f"decoding: no prompt was given; {args.model} gets {args.prompt!r}", file=sys.stderr)
    return [args.prompt]


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


def _print_outputs(model: Model, before: Sequence[str], out: Sequence[Hypothesis], *, headings: bool) -> None:
    for hypothesis in out:
        prompt = before[hypothesis.prompt_index]
        after, tokens = _text_after(model, prompt), hypothesis.tokens
        text = (
            " " + " ".join(map(str, tokens)) if after is None else "".join([*map(after.push, tokens), after.finish()])
        )
        numbers = [hypothesis.prompt_index + 1] * (len(before) > 1) + [hypothesis.rank + 1]
        heading = f"--- {'.'.join(map(str, numbers))} (log-probability {hypothesis.logprob:.2f})\n" if headings else ""
        print(f"{heading}{prompt}{text}")


def _wanted_by_plot(model: Model, strategy: Strategy, trace: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of decode() that the picture needs: attention where the model has it, else all beams."""
    if model._network.contract.attention is not None:
        return {"return_attention": True}
    if isinstance(strategy, Beam):
        outputs = max(options["num_return_sequences"], strategy.num_beams)
        return {"processors": [trace, *options["processors"]], "num_return_sequences": outputs}
    return {}


def _figure(plot: Any, out: Decoded, strategy: Strategy, trace: Any, source: Sequence[str] | None) -> Any:
    """Return the picture that suits the outputs."""
    weights = out[0].attention
    if weights is not None:
        return plot.attention(out[0], source if source and len(source) == weights.shape[1] else None)
    return plot.beam_tree(out, trace) if isinstance(strategy, Beam) else plot.tokens(out)
