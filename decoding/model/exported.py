"""`ExportedGraph`: a file as it was exported, with plain ports and dynamic shapes. Every way to decode it starts from here."""

from __future__ import annotations

from collections.abc import Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Shape
from decoding.model.passes import normalize
from decoding.model.passes.delay_lines import write_delay_lines
from decoding.model.passes.dynamic_shapes import declares_one_row, make_reshapes_dynamic
from decoding.model.passes.expose_states import HiddenState, InitialValue, find_hidden_states, initial_values
from decoding.model.roles.auxiliary_inputs import for_each_row, make_auxiliary_inputs, over_past, with_time
from decoding.model.roles.infer import Roles, recurrent_path
from decoding.model.verify.free_sizes import with_free_axis
from decoding.model.verify.layouts import StateShape, declared_state_shape


@dataclass(frozen=True)
class ExportedGraph:
    """A graph that computes what the exported one computes, with int64 ids in, float32 scores out and dynamic shapes.

    Attributes:
        original: the graph before delay lines were written, where there are any: runs over whole sequences are runs of it.
        declared: shapes of the inputs as the file declares them.
        exposed: the states that are inputs and outputs of the file.
        baked_reshapes: outputs of the Reshapes that may still hold the example's sizes; None where any may.
        delay_lines: what causal convolutions and token shifts remember.
    """

    graph: Graph
    original: Graph
    roles: Roles
    declared: Mapping[str, Shape]
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    exposed: tuple[StateShape, ...]
    baked_reshapes: Set[str] | None
    delay_lines: tuple[HiddenState, ...]

    @property
    def token_shape(self) -> Shape:
        """The token's shape as the file declares it."""
        return self.declared[self.roles.token]

    @cached_property
    def means_one_token(self) -> bool:
        """Return whether a run of the file reads one token of each row: so it declares, and it hides no state.

        Of ``[n, 1]`` the n is the number of rows where the states have sizes that are not numbers, too.
        """
        shape = self.token_shape or ()
        dynamic_states = any(None in state.sizes for state in self.exposed)
        rows = [d for d in shape if not isinstance(d, int)]
        return len(shape) == 2 and 1 in shape and (not rows or dynamic_states) and not self.hidden

    @cached_property
    def hidden(self) -> list[tuple[HiddenState, InitialValue]]:
        """The states that the graph hides, with their initial values.

        Raises:
            ModelError: an initial value cannot be computed.
        """
        hidden = [*find_hidden_states(self.graph, self.roles), *self.delay_lines]
        pairs = zip(hidden, self.initial_values(hidden), strict=True)
        # A Loop may carry single numbers too (a clock, a flag); a state has at least a batch axis.
        return [(state, initial) for state, initial in pairs if initial.value.ndim]

    def copy(self) -> ExportedGraph:
        """An independent copy for another rewriting, after which any Reshape may be baked."""
        graph = self.graph.copy()
        original = graph if self.original is self.graph else self.original
        return replace(self, graph=graph, original=original, roles=deepcopy(self.roles), baked_reshapes=None)

    def initial_values(self, hidden: list[HiddenState], graph: Graph | None = None) -> list[InitialValue]:
        """The initial values of hidden states, with the weights of `graph`; default with the file's."""
        contexts = {aux.name for aux in self.auxiliary_inputs if aux.of_rows}
        return initial_values(graph or self.graph, hidden, self.declared, contexts)


def exported_graph(graph: Graph, roles: Roles, declared: Mapping[str, Shape]) -> ExportedGraph:
    """Rewrite a file's graph, in place, to plain ports and dynamic shapes.

    Raises:
        ModelError: a layer reads the sequence from its end, or a state declares no shape.
    """
    if roles.one_hot is not None:  # the shape of the ids
        declared = {**declared, roles.token: (declared[roles.token] or ())[:-1] or None}
    normalize.spread_constants(graph, declared, roles.token)
    declared = {**declared, **normalize.put_batch_first(graph, roles, declared)}
    found = make_auxiliary_inputs(graph.inputs, roles.auxiliary_inputs, roles.sources, roles.draws)
    steps = declared[roles.token]
    auxiliary_inputs = tuple(
        with_time(for_each_row(aux, declared[aux.name]), declared[aux.name], steps) for aux in found
    )
    outputs = {port.name: port.shape for port in graph.outputs}
    exposed = tuple(
        with_free_axis(
            declared_state_shape(graph, roles, name, output),
            declared[name],
            outputs[output],
            auxiliary_inputs,
            declared,
        )
        for name, output in roles.states.items()
    )
    if any(state.grows for state in exposed):
        auxiliary_inputs = tuple(over_past(aux, declared[aux.name], steps) for aux in auxiliary_inputs)
    normalize.check_nodes_run_forward(graph, recurrent_path(graph, roles.token, roles.logits), roles.token)
    normalize.plain_ports(graph, roles)
    for aux in auxiliary_inputs:
        graph.set_shape(aux.name, [None] * aux.rank)
    exported = ExportedGraph(graph, graph, roles, declared, auxiliary_inputs, exposed, None, ())
    # An export of one row or one token runs at its own sizes alone, so nothing can be seen.
    if not (declares_one_row(exported.token_shape) or exported.means_one_token):
        baked = make_reshapes_dynamic(graph, roles, exposed, auxiliary_inputs, exported.token_shape)
        exported = replace(exported, baked_reshapes=baked)
    stepped = graph.copy()
    delay_lines = write_delay_lines(stepped, roles, exposed, auxiliary_inputs)
    return replace(exported, graph=stepped, delay_lines=delay_lines) if delay_lines else exported
