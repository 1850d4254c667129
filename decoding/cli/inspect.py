"""`decoding inspect`: print the contract of a model, and what loading did to its graph."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from decoding.cli.shared.load_options import add_load_options, load_model
from decoding.cli.shared.parser import Parser
from decoding.cli.shared.tables import table
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.history import PassRecord
from decoding.model.model import Model


def add_parser(commands: argparse._SubParsersAction[Parser], help: str) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "inspect",
        help=help,
        usage="decoding inspect MODEL [options]",
        description="Print what was found out about a model, and from what evidence: which input takes the tokens, which are states, "
        "what runs it. With --providers, print too which operators of a step run where.",
        examples=("decoding inspect shakespeare --graph", "decoding inspect dates --json"),
    )
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, its folder, or a shipped model")
    parser.add_argument("--graph", action="store_true", help="say what each pass of loading did to the graph, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_load_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the model's contract, with --graph the passes, and with --providers where its operators run."""
    model = load_model(args)
    if args.json:
        facts = _facts(model)
        if args.graph:
            facts["passes"] = [_pass(one) for one in model.passes]
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(model.describe())
    if args.graph:
        print("\n" + _pass_table(model.passes))
        for stage in model._network.encoders or ():
            if stage.graph.history:
                print(f"\nencoder {stage.name}\n{_pass_table(stage.graph.history)}")
    if args.providers is not None:
        print("\n" + _placement_table(model))


def _pass_table(passes: Sequence[PassRecord]) -> str:
    """Return a table of what each pass did."""
    rows = []
    for number, one in enumerate(passes, 1):
        first, *more = str(one).split("; ")
        rows += [(str(number), one.name, first), *(("", "", line) for line in more)]
    return table(("", "pass", "what it did"), rows, right=(0,))


def _placement_table(model: Model) -> str:
    """Return a table of the providers: how many operators of a step each runs, and of what kinds."""
    kinds: dict[str, Counter[str]] = {}
    for run in model._network.placement():
        kinds.setdefault(run.provider, Counter())[run.op] += 1
    rows = [
        (provider, str(ops.total()), ", ".join(f"{op} {count}" for op, count in ops.most_common()))
        for provider, ops in sorted(kinds.items(), key=lambda item: -item[1].total())
    ]
    lines = [table(("provider", "operators", "kinds"), rows, right=(1,))]
    uncaptured = model._network.device_step(None).uncaptured if model._network.on_device else ""
    return "\n".join([*lines, *([f"note: without CUDA graphs: {uncaptured}"] if uncaptured else [])])


def _facts(model: Model) -> dict[str, Any]:
    """Return what `describe()` says, for programs."""
    contract, window = model._network.contract, model._network.contract.window
    return {
        "name": model.name,
        "vocab_size": model.vocab_size,
        "tokenizer": None if model.tokenizer is None else str(model.tokenizer),
        "bos_token_id": model.bos_token_id,
        "eos_token_id": list(model.eos_token_id),
        "pad_token_id": model.pad_token_id,
        "max_new_tokens": model.max_new_tokens,
        "executor": model.executor,
        "providers": model.providers,
        "weight_bytes": model.weight_bytes,
        "token": {"name": contract.token.name, "layout": contract.token.layout},
        "logits": {"name": contract.logits.name, "layout": contract.logits.layout},
        "whole_prompts": contract.sequence,
        "states": [
            {
                "input": state.input,
                "output": state.output,
                "dtype": str(state.dtype),
                "shape": ["batch" if axis == state.batch_axis else None if axis == state.free_axis else size for axis, size in enumerate(state.initial.shape)],
                "source": state.source,
            }
            for state in contract.states
        ],
        "inputs": [_input(aux) for aux in contract.all_auxiliary_inputs],
        "attention": contract.attention,
        "window": None if window is None else {"size": window.size, "pad": window.pad},
        "encoders": [
            {"name": stage.name, "inputs": [_input(aux) for aux in stage.auxiliary_inputs], "notes": list(stage.notes)}
            for stage in model._network.encoders or ()
        ],
        "notes": list(contract.notes),
    }  # fmt: skip


def _input(aux: AuxiliaryInput) -> dict[str, Any]:
    return {"name": aux.name, "kind": aux.kind, "dtype": str(aux.dtype), "shape": ["batch", *aux.sizes]}


def _pass(one: PassRecord) -> dict[str, Any]:
    kinds = {"added": dict(one.added), "removed": dict(one.removed), "changed": dict(one.changed)}
    return {"name": one.name, **kinds, "ports": list(one.ports)}
