"""First states that a graph computes from contexts or latents: the part of the graph that does, run once a prompt or sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, Token
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Session


@dataclass(frozen=True)
class InitialStateGraph:
    """The part of a graph between contexts or latents and the first values of its states.

    Attributes:
        fills: the contexts that it reads, what tells their padding, and the latents, drawn once a sequence.
        token: the token's input, where the part looks at its shape.
        states: the tensor that each state starts from.
    """

    session: Session
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    token: Token | None
    states: Mapping[str, str]

    def over(self, graph: Graph) -> InitialStateGraph:
        """The same over another graph: one with other weights."""
        return replace(self, session=Session(graph.part(self.states.values()), threads=1))

    def run(self, contexts: Mapping[str, Array]) -> dict[str, Array]:
        """First values by state, for contexts and latents [batch, ...]."""
        feeds = {f.name: contexts[f.name] for f in self.auxiliary_inputs}
        if self.token is not None:
            rows = len(next(iter(feeds.values())))
            feeds[self.token.name] = self.token.arrange(np.zeros((rows, 1), np.int64))
        tensors = list(dict.fromkeys(self.states.values()))
        values = dict(zip(tensors, self.session.run(feeds, tensors), strict=True))
        return {state: values[tensor] for state, tensor in self.states.items()}


def make_initial_state_graph(
    graph: Graph, auxiliary_inputs: Sequence[AuxiliaryInput], token: Token, states: Mapping[str, str]
) -> InitialStateGraph | None:
    """The starter of the states that a context or a latent starts; None where there are none.

    Args:
        graph: as it was before its states were opened.
        states: the tensor that each of these states starts from.

    Raises:
        ModelError: a state starts from a latent of every step.
    """
    if not states:
        return None
    part = graph.part(states.values())
    inputs = {p.name for p in part.inputs}
    own = tuple(f for f in auxiliary_inputs if f.name in inputs)
    if moving := [f for f in own if f.kind == "latent" and f.draw.every == "step"]:
        name = moving[0].name
        raise ModelError(
            f"{graph.name}: the state {next(iter(states))} starts from the latent {name}, which is drawn anew at every step; a start needs one "
            f"drawn once a sequence, {name} [batch, ...] with roles={{'latent': {{{name!r}: 'normal'}}}}; "
            "or export the initial state as an input of the decoder"
        )
    return InitialStateGraph(Session(part, threads=1), own, token if token.name in inputs else None, states)
