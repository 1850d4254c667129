"""The options that choose the next token: a flag for each field of each strategy, the processors, lengths, stops and the seed.

`strategy_of()` and `decode_options()` make of them what `decode()` takes.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from decoding.arguments import ids_below
from decoding.cli.shared.parser import rare
from decoding.constraints import Constraint, Regex
from decoding.errors import OptionError, shown
from decoding.model.model import Model
from decoding.processors import (
    FrequencyPenalty,
    NoRepeatNgram,
    PresencePenalty,
    Processor,
    RepetitionPenalty,
    SuppressTokens,
)
from decoding.strategies import Beam, Greedy, MustContain, Sample, Strategy, TopN

# What a command samples with where nothing is said: a little sharper than the model, as people expect of a text.
TEMPERATURE = 0.8

# What --help says of each field of a strategy; fields, types and checks are those of decoding/strategies.py.
_SAMPLE = {
    "temperature": ("T", f"below 1 sharpens, above 1 flattens (default: {TEMPERATURE})"),
    "top_k": ("K", "keep the K most probable tokens"),
    "top_p": ("P", "keep the most probable tokens until they reach P"),
    "min_p": ("P", "keep tokens of at least P times the greatest probability"),
    "typical_p": ("P", "keep the tokens nearest to the entropy until they reach P"),
    "epsilon_cutoff": ("E", "keep tokens of at least this probability"),
    "eta_cutoff": ("E", "keep tokens of at least min(E, sqrt(E) * exp(-entropy))"),
    "replacement": ("", "different outputs: sampling without replacement"),
}
_BEAM = {
    "num_beams": ("N", "beam search with N beams"),
    "length_penalty": ("X", "above 0 favours long outputs, below 0 short ones (default: 1)"),
    "early_stopping": ("", "whether N closed hypotheses end the search (default: false)"),
    "num_beam_groups": ("N", "groups of beams that search apart"),
    "diversity_penalty": ("X", "penalty for a token that an earlier group chose at this step"),
    "coverage_penalty": ("X", "penalty for a source that is not attended to"),
    "must_contain": ("PHRASE", "text that every output contains; may be repeated"),
}
_COMMON = {"temperature", "top_k", "top_p", "num_beams"}
_EARLY_STOPPING = {"true": True, "false": False, "never": "never"}
_PENALTIES = {
    "repetition_penalty": (RepetitionPenalty, float, "X", "above 1 makes tokens of prompt and output less probable"),
    "presence_penalty": (PresencePenalty, float, "X", "subtracted from the logits of tokens that the output has"),
    "frequency_penalty": (FrequencyPenalty, float, "X", "the same, for every time that the output has the token"),
    "no_repeat_ngram_size": (NoRepeatNgram, int, "N", "no N tokens in a row come a second time"),
}


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `strategy_of()` reads."""
    group = parser.add_argument_group("strategy (default: sampling)")
    _add_fields(group, Sample, _SAMPLE)
    group.add_argument("--greedy", action="store_true", help="take the most probable token at every step")
    _add_fields(group, Beam, _BEAM)
    rare(
        group.add_argument(
            "--top-n", type=int, metavar="N", help="choose among the N most probable tokens, each as likely"
        )
    )


def add_decode_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that `decode_options()` reads: lengths, stops, seed, numbers of outputs, penalties. Return their group."""
    group = parser.add_argument_group("output")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest output (default: the model's, else 256)")  # fmt: skip
    group.add_argument("-n", "--n", type=int, default=1, metavar="N", help="outputs of each prompt (default: 1)")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the random draws: the same seed, the same output")
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="text or ids that end an output; may be repeated"
    )
    for flag, options in {
        "--min-new-tokens": {"type": int, "default": 0, "metavar": "N", "help": "shortest output"},
        "--ignore-eos": {"action": "store_true", "help": "do not end at EOS"},
        "--logprobs": {
            "type": int,
            "default": 0,
            "metavar": "N",
            "help": "with --json: the N best log-probabilities of each step",
        },
        "--regex": {
            "metavar": "PATTERN",
            "help": "the outputs match this regular expression; needs the extra constraints",
        },
        "--suppress-tokens": {"metavar": "IDS", "help": "ids, split by spaces, that are never chosen"},
    }.items():
        rare(group.add_argument(flag, **options))  # type: ignore[arg-type]
    for name, (_, kind, metavar, help) in _PENALTIES.items():
        rare(group.add_argument(_flag(name), type=kind, metavar=metavar, help=help))
    return group


def strategy_of(args: argparse.Namespace) -> Strategy:
    """Return the strategy that the options ask for.

    Raises:
        OptionError: two of them contradict each other, or one is out of its range.
    """
    chosen = [name for name in ("greedy", "num_beams", "top_n") if getattr(args, name) not in (None, False)]
    if len(chosen) > 1:
        raise OptionError(f"{_flag(chosen[0])} and {_flag(chosen[1])}: two different strategies; leave one out")
    sampling, beams = _given(args, Sample), _given(args, Beam)
    if chosen and sampling:
        raise OptionError(f"{_flag(chosen[0])} and {_flag_of(next(iter(sampling)))}: {_flag(chosen[0])} does not sample; leave one out")  # fmt: skip
    if beams and "num_beams" not in beams:
        with_ = f"{_flag(chosen[0])} and " if chosen else ""
        raise OptionError(f"{with_}{_flag_of(next(iter(beams)))}: an option of beam search; give --num-beams too, and no other strategy")  # fmt: skip
    if args.greedy:
        return Greedy()
    if args.top_n is not None:
        return TopN(args.top_n)
    return Beam(**beams) if beams else Sample(**{"temperature": TEMPERATURE, **sampling})


def decode_options(args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Return the options of `decode()` that the command line has set.

    Raises:
        OptionError: one is wrong.
    """
    return {
        "max_new_tokens": args.max_new_tokens,
        "min_new_tokens": args.min_new_tokens,
        "num_return_sequences": args.n,
        "seed": args.seed,
        "stop": [_stop(model, text) for text in args.stop],
        "eos_token_id": None if args.ignore_eos else "model",
        "logprobs": args.logprobs,
        "processors": _processors(args, model),
    }


def ids_of(text: str, flag: str, expected: str = "ids split by spaces, such as '3 17 4'") -> list[int]:
    """Return the ids that an option or a prompt lists.

    Raises:
        OptionError: it lists something else.
    """
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise OptionError(f"{flag} {shown(text[:80])}: expected {expected}") from error


def _add_fields(group: argparse._ArgumentGroup, kind: type[Any], helps: dict[str, tuple[str, str]]) -> None:
    """Add a flag for each field of a strategy, of the type that its default has."""
    for field in fields(kind):
        metavar, help = helps[field.name]
        options: dict[str, Any] = {"dest": field.name, "help": help, "default": None}
        if field.name == "early_stopping":
            options["choices"] = _EARLY_STOPPING
        elif field.name == "must_contain":
            options |= {"action": "append", "metavar": metavar}
        elif isinstance(field.default, bool):  # --no-FIELD switches off what is on
            options |= {"action": "store_const", "const": not field.default}
        else:
            options |= {"type": type(field.default), "metavar": metavar}
        action = group.add_argument(_flag_of(field.name), **options)
        if field.name not in _COMMON:
            rare(action)


def _given(args: argparse.Namespace, kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a strategy that the command line sets."""
    values = {field.name: getattr(args, field.name) for field in fields(kind)}
    given = {name: value for name, value in values.items() if value is not None}
    if "early_stopping" in given:
        given["early_stopping"] = _EARLY_STOPPING[given["early_stopping"]]
    if "must_contain" in given:
        given["must_contain"] = MustContain(given["must_contain"])
    return given


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flag_of(field: str) -> str:
    """Return the flag of a field: one that is on by default has a flag that switches it off."""
    return "--no-replacement" if field == "replacement" else _flag(field)


def _stop(model: Model, text: str) -> str | list[int]:
    if model.tokenizer is None:
        ids = ids_of(text, "--stop", f"ids split by spaces, as {model.name} has no vocabulary")
        return list(ids_below(model.vocab_size, ids, "--stop").tolist())
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _processors(args: argparse.Namespace, model: Model) -> list[Processor | Constraint]:
    """Return the processors in the order in which Hugging Face applies them: penalties first."""
    values: list[tuple[Any, Any]] = [(kind, getattr(args, name)) for name, (kind, *_) in _PENALTIES.items()]
    found: list[Processor | Constraint] = [make(value) for make, value in values if value is not None]
    if args.regex is not None:
        found.append(Regex(args.regex))
    if args.suppress_tokens is not None:
        ids = ids_of(args.suppress_tokens, "--suppress-tokens")
        found.append(SuppressTokens(ids_below(model.vocab_size, ids, "--suppress-tokens")))
    return found
