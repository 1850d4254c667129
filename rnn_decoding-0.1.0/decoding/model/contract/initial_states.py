"""Initial states that depend on contexts or latents: runs the part of the graph that computes them, once for each sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, Token
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session


class MovingStart(ModelError):
    """An initial state is computed from a latent that the roles say is drawn anew at every step."""


@dataclass(frozen=True)
class InitialStateGraph:
    """The part of a graph that computes initial states from contexts or latents.

    Attributes:
        auxiliary_inputs: the contexts that it reads, their lengths and masks, and latents drawn once a sequence.
        token: the token's input, where the part reads its shape.
        states: for each state's input the tensor with its initial state.
    """

    session: Session
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    token: Token | None
    states: Mapping[str, str]

    def over(self, graph: Graph) -> InitialStateGraph:
        """The same part of `graph`, which has other weights."""
        return replace(self, session=Session(graph.part(self.states.values()), threads=1))

    def run(self, contexts: Mapping[str, Array]) -> dict[str, Array]:
        """Initial states by the state's input, from contexts and latents [batch, ...]."""
        feeds = {aux.name: contexts[aux.name] for aux in self.auxiliary_inputs}
        if self.token is not None:
            rows = len(next(iter(feeds.values())))
            feeds[self.token.name] = self.token.arrange(np.zeros((rows, 1), np.int64))
        tensors = list(dict.fromkeys(self.states.values()))
        values = dict(zip(tensors, self.session.run(feeds, tensors), strict=True))
        return {state: values[tensor] for state, tensor in self.states.items()}


def make_initial_state_graph(
    graph: Graph, auxiliary_inputs: Sequence[AuxiliaryInput], token: Token, states: Mapping[str, str]
) -> InitialStateGraph | None:
    """The part of `graph` that computes the initial states of `states`; None where there are none.

    Args:
        graph: as it was before its states were exposed.
        states: for the input of each state that is computed from a context or a latent, the tensor with its initial state.

    Raises:
        ModelError: an initial state is computed from a latent that is drawn at every step.
    """
    if not states:
        return None
    part = graph.part(states.values())
    inputs = {p.name for p in part.inputs}
    own = tuple(aux for aux in auxiliary_inputs if aux.name in inputs)
    if moving := [aux for aux in own if aux.kind == "latent" and aux.draw.every == "step"]:
        name = moving[0].name
        raise MovingStart(
            f"{graph.name}: the state {next(iter(states))} starts from the latent {name}, which is drawn anew at every step; an initial state needs one "
            f"drawn once a sequence, {name} [batch, ...] with roles={{'latent': {{{name!r}: 'normal'}}}}; "
            "or export the initial state as an input of the decoder"
        )
    return InitialStateGraph(Session(part, threads=1), own, token if token.name in inputs else None, states)
