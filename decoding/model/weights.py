"""Other weights in a loaded model: what a file's initializers have become of in the prepared graph."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from decoding.errors import OptionError
from decoding.model.contract.contract import Contract
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array, Shape
from decoding.model.passes.expose_states import find_hidden_states, start_values
from decoding.model.roles.infer import Roles

# Names in one message.
_SHOWN = 20


@dataclass(frozen=True)
class FileWeights:
    """The initializers of a file, and the graph as it was before its states were opened.

    Attributes:
        initializers: dtype and shape of each, by the name that it has in the file.
        quantized: the prepared graph holds int8 weights in their place.
        starting: those that the initial values of hidden states are computed from,
            by `load()` from `graph`, `roles`, the `declared` shapes of the inputs and the names of the `contexts`.
    """

    initializers: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    quantized: bool
    starting: Set[str]
    graph: Graph
    roles: Roles
    declared: Mapping[str, Shape]
    contexts: Set[str]

    @classmethod
    def find(
        cls,
        initializers: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
        quantized: bool,
        graph: Graph,
        roles: Roles,
        declared: Mapping[str, Shape],
        contexts: Set[str],
    ) -> FileWeights:
        """Find out which initializers start a hidden state."""
        tensors = [h.initial for h in find_hidden_states(graph, roles) if h.initial]
        starting = initializers.keys() & set().union(*(graph.ancestors(tensor) for tensor in tensors))
        return cls(initializers, quantized, starting, graph, roles, declared, contexts)

    def checked(self, name: str, weights: Mapping[str, Any], prepared: Graph) -> dict[str, Array]:
        """The given weights as arrays of their own, each with a place in the prepared graph or in an initial state.

        Args:
            name: of the model, for messages.

        Raises:
            OptionError: a name that the file does not have, a wrong shape or dtype, or a weight that has no place.
        """
        if not isinstance(weights, Mapping):
            raise OptionError(f"weights: {type(weights).__name__}; expected a dict from initializer names to arrays")
        if self.quantized:
            raise OptionError(
                f"weights: those of {name} were turned into int8; load it without quantize= to change them"
            )
        values = {key: self._array(name, key, value) for key, value in weights.items()}
        placed = prepared.initializers.keys() | self.starting
        if settled := [key for key in values if key not in placed]:
            raise OptionError(
                f"weights: nothing that {name} runs reads {_listed(settled)}: load() has settled it (a size, a condition, what "
                "it wrote in another form), or only outputs that decoding does not use need it; leave it out, or load() the file with its new value"
            )
        return values

    def changed(self, values: Mapping[str, Array]) -> FileWeights:
        """The same with these values."""
        return replace(self, graph=self.graph.with_values(values)) if self.starting & values.keys() else self

    def started(self, contract: Contract) -> Contract:
        """The contract with the initial values that follow from the weights."""
        hidden = find_hidden_states(self.graph, self.roles)
        starts = start_values(self.graph, hidden, self.declared, self.contexts)
        found = {h.name: (h, start) for h, start in zip(hidden, starts, strict=True)}
        states = tuple(
            replace(state, initial=found[state.input][1].row(state.batch_axis, self.graph, found[state.input][0]))
            if state.input in found
            else state
            for state in contract.states
        )
        return replace(
            contract,
            states=states,
            initial_state_graph=None
            if contract.initial_state_graph is None
            else contract.initial_state_graph.over(self.graph),
        )

    def _array(self, name: str, key: str, value: Any) -> Array:
        if key not in self.initializers:
            close = get_close_matches(str(key), self.initializers, 1)
            raise OptionError(
                f"weights: {name} has no initializer {key!r}{f'; did you mean {close[0]!r}?' if close else '.'} "
                f"Its initializers are {_listed(self.initializers)}. (Torch's dynamo exporter keeps a module's names with optimize=False)"
            )
        dtype, shape = self.initializers[key]
        try:
            array = np.array(value)
        except (RuntimeError, TypeError, ValueError) as error:  # a tensor that torch still differentiates, say
            raise OptionError(f"weights[{key!r}]: {type(value).__name__} is no array: {error}") from error
        if array.dtype != dtype or array.shape != shape:
            raise OptionError(
                f"weights[{key!r}]: {array.dtype} of shape {list(array.shape)}; the file has {dtype} of shape {list(shape)}"
            )
        return array


def _listed(names: Any) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
