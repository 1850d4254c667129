"""Save a loaded model as a step graph that `load()` reads without rewriting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decoding.errors import ModelError, shown
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import State
from decoding.model.contract.program import StepProgram
from decoding.model.encoders.chain import Encoders
from decoding.model.paths import encoder_paths
from decoding.tokenizers import Tokenizer, tokenizer_metadata


def save_model(program: StepProgram, encoders: Encoders | None, path: Path, tokenizer: Tokenizer | None) -> None:
    """Write the step graph to `path` and the encoders beside it, each with its tokenizer.

    Raises:
        OptionError: a tokenizer cannot be written into a file.
        ModelError: the graph computes initial states from an input that a step graph does not have.
    """
    graph, contract = program.graph.copy(), program.contract
    if contract.initial_state_graph is not None:
        raise ModelError(
            f"{graph.name}: it computes its initial states from {contract.initial_state_graph.auxiliary_inputs[0].name}, which is no input of a step graph, "
            "so it cannot be saved; keep the file as it was exported"
        )
    if not contract.sequence and contract.token.layout != "B":
        graph.set_shape(contract.token.name, ["batch", 1] if contract.token.layout == "BT" else [1, "batch"])
    for state in contract.states:
        for name, size in ((state.input, "past"), (state.output, "present")):
            graph.set_shape(name, _shape(contract, state, size))
    token = {port.name: port.shape for port in graph.inputs}[contract.token.name] or ()
    for aux in contract.row_inputs:
        sizes: list[Any] = [f"{aux.name}_{axis}" if size is None else size for axis, size in enumerate(aux.sizes)]
        if aux.timed:
            sizes[:1] = token[1:2]  # that it has the token's time shows that it has a value for each token
        graph.set_shape(aux.name, ["batch", *(sizes or [1] * (aux.rank - 1))])
    initial = {state.input: state.initial.tolist() for state in contract.states if state.initial.any()}
    roles = roles_of(contract) | ({} if encoders is None else {"encoder": encoders.roles()})
    entries = {"decoding.roles": json.dumps(roles), "decoding.initial": json.dumps(initial)}
    graph.set_metadata({**entries, **tokenizer_metadata(tokenizer)})
    stages = list(encoders or ())
    for stage, place in zip(stages, encoder_paths(path, len(stages)), strict=True):
        stage.save(place)
    try:
        path.write_bytes(graph.serialize())
    except (OSError, ValueError) as error:  # a folder, a name that the file system does not take
        raise ModelError(f"{shown(str(path))} cannot be written: {error}") from error


def _shape(contract: Contract, state: State, size: str) -> list[int | str]:
    """The shape of a state in the file; `size` is the name of the free axis of one that grows."""
    shape: list[int | str] = list(state.initial.shape)
    shape[state.batch_axis] = "batch"
    if state.free_axis is not None:
        about = [aux for aux in contract.contexts if aux.name == state.width_of]
        shape[state.free_axis] = f"{state.width_of}_{about[0].source_axis}" if about else f"{state.input}_{size}"
    return shape


def roles_of(contract: Contract) -> dict[str, Any]:
    """The roles of a step graph as ``load(roles=...)`` takes them."""
    c = contract
    about = {
        kind: {aux.name: aux.source for aux in c.auxiliary_inputs if aux.kind == kind}
        for kind in ("source_mask", "source_length")
    }
    named = {
        kind: [aux.name for aux in c.auxiliary_inputs if aux.kind == kind] for kind in ("step_context", "position")
    }
    return {
        "token": c.token.name,
        "logits": c.logits.name,
        "output": "logits",
        "state": {state.input: state.output for state in c.states},
        "batch_axis": {state.input: state.batch_axis for state in c.states},
        "context": [aux.name for aux in c.contexts],
        "latent": {aux.name: {"distribution": aux.draw.distribution, "every": aux.draw.every} for aux in c.latents},
        **{kind: names for kind, names in (about | named).items() if names},
        **({"window": c.window.size, "pad": c.window.pad} if c.window else {}),
        **({"attention": c.attention} if c.attention else {}),
    }
