"""The state after an output, as a request takes it to go on from there."""

from __future__ import annotations

import numpy as np

from decoding.engine.batch.protocol import Batch
from decoding.engine.request import EngineRequest
from decoding.model.graph.types import Array
from decoding.model.network import Network

# The names of what a state has besides the values of the state inputs.
IDS, FINGERPRINT, CONTEXT = "decoding.ids", "decoding.model", "decoding.context."
# Prompts of members' own, and how many of the ids they stand in for.
PREFIX, START = "decoding.prefix.", "decoding.start"


def state_after(
    network: Network, batch: Batch, slot: int, request: EngineRequest, output: Array, by_eos: bool
) -> dict[str, Array]:
    """Return the state after prompt and output, EOS excluded.

    Nothing may have moved the rows of the batch since its last step.

    Args:
        slot: where the output's last step was taken.
        output: new ids, EOS included.
        by_eos: whether EOS ended it. Then the step that chose it had read the whole output, a token more than belongs to the state.

    Returns:
        The values of the state inputs, without a batch axis, before the last id of prompt and output; all these ids; the contexts;
        the prompts that members of an ensemble have of their own; the fingerprint of the model.
    """
    ids = np.concatenate([request.ids, output[: len(output) - by_eos]])
    contexts = {f"{CONTEXT}{name}": np.asarray(value) for name, value in request.context.items()}
    prefixes = {f"{PREFIX}{name}": own for name, own in request.prefixes.items()}
    return {
        **batch.states_before(np.array([slot]), int(by_eos))[0],
        **contexts,
        **(prefixes | {START: np.array(request.start)} if prefixes else {}),
        IDS: ids,
        FINGERPRINT: np.array(network.fingerprint),
    }
