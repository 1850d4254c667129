"""Save a loaded model as a step graph that `load()` reads without rewriting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decoding.errors import ModelError, shown
from decoding.model.contract.contract import Contract
from decoding.model.contract.program import StepProgram
from decoding.model.encoders.chain import Encoders
from decoding.model.paths import encoder_paths


def save_model(program: StepProgram, encoders: Encoders | None, path: Path) -> None:
    """Write the step graph to `path` and the encoders beside it.

    Raises:
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
        shape: list[int | str] = list(state.initial.shape)
        shape[state.batch_axis] = "batch"
        graph.set_shape(state.input, shape)
        graph.set_shape(state.output, shape)
    for aux in contract.row_inputs:
        sizes = [f"{aux.name}_{axis}" if size is None else size for axis, size in enumerate(aux.sizes)]
        graph.set_shape(aux.name, ["batch", *(sizes or [1] * (aux.rank - 1))])
    initial = {state.input: state.initial.tolist() for state in contract.states if state.initial.any()}
    roles = roles_of(contract) | ({} if encoders is None else {"encoder": encoders.roles()})
    graph.set_metadata({"decoding.roles": json.dumps(roles), "decoding.initial": json.dumps(initial)})
    stages = list(encoders or ())
    for stage, place in zip(stages, encoder_paths(path, len(stages)), strict=True):
        stage.save(place)
    try:
        path.write_bytes(graph.serialize())
    except (OSError, ValueError) as error:  # a folder, a name that the file system does not take
        raise ModelError(f"{shown(str(path))} cannot be written: {error}") from error


def roles_of(contract: Contract) -> dict[str, Any]:
    """The roles of a step graph as ``load(roles=...)`` takes them."""
    c = contract
    about = {
        kind: {aux.name: aux.source for aux in c.auxiliary_inputs if aux.kind == kind}
        for kind in ("source_mask", "source_length")
    }
    return {
        "token": c.token.name,
        "logits": c.logits.name,
        "output": "logits",
        "state": {state.input: state.output for state in c.states},
        "batch_axis": {state.input: state.batch_axis for state in c.states},
        "context": [aux.name for aux in c.contexts],
        "latent": {aux.name: {"distribution": aux.draw.distribution, "every": aux.draw.every} for aux in c.latents},
        **{kind: names for kind, names in about.items() if names},
        **({"window": c.window.size, "pad": c.window.pad} if c.window else {}),
        **({"attention": c.attention} if c.attention else {}),
    }
