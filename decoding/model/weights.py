"""Replaces weights of a loaded model: finds the file's initializers in the prepared graph and in its initial states."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from decoding.errors import OptionError
from decoding.model.contract.contract import Contract
from decoding.model.exported import ExportedGraph
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.passes.expose_states import HiddenState

# Names in one message.
_SHOWN = 20


@dataclass(frozen=True)
class FileWeights:
    """The initializers of a file, and which of them initial states are computed from.

    Attributes:
        initializers: dtype and shape of each, by the name that it has in the file.
        quantized: the prepared graph holds int8 weights in their place.
        exported: the graph before its states were exposed, which computes their initial values.
        hidden: the states that it hides.
        starting: the initializers that their initial values are computed from.
    """

    initializers: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    quantized: bool
    exported: ExportedGraph
    hidden: list[HiddenState]
    starting: Set[str]

    @classmethod
    def of(
        cls,
        initializers: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
        quantized: bool,
        exported: ExportedGraph,
        contract: Contract,
    ) -> FileWeights:
        """The initializers of a file whose prepared graph has this contract."""
        hidden = [state for state, _ in exported.hidden] if contract.states else []
        computed = (exported.graph.ancestors(state.initial) for state in hidden if state.initial)
        return cls(initializers, quantized, exported, hidden, initializers.keys() & set().union(*computed))

    def checked(self, name: str, weights: Mapping[str, Any], prepared: Graph) -> dict[str, Array]:
        """Copies of the given weights as arrays.

        Args:
            name: of the model, for messages.
            prepared: the graph that the model runs.

        Raises:
            OptionError: a name that the file does not have, a wrong shape or dtype, or a weight that nothing reads any more.
        """
        if not isinstance(weights, Mapping):
            raise OptionError(f"weights: {type(weights).__name__}; expected a dict from initializer names to arrays")
        if self.quantized:
            raise OptionError(
                f"weights: those of {name} were turned into int8; load it without quantize= to change them"
            )
        values = {key: self._array(name, key, value) for key, value in weights.items()}
        placed = prepared.initializers.keys() | self.starting
        if unread := [key for key in values if key not in placed]:
            raise OptionError(
                f"weights: nothing that {name} runs reads {_listed(unread)}: load() computed a constant from it (a size, a "
                "condition, weights in another form), or only outputs that decoding does not use need it; leave it out, or load() the file with its new value"
            )
        return values

    def changed(self, values: Mapping[str, Array]) -> FileWeights:
        """The same with these values."""
        if not self.starting & values.keys():
            return self
        return replace(self, exported=replace(self.exported, graph=self.exported.graph.with_values(values)))

    def with_initial_states(self, contract: Contract) -> Contract:
        """The contract with the initial states that follow from the weights."""
        graph = self.exported.graph
        found = dict(zip((h.name for h in self.hidden), self.exported.initial_values(self.hidden), strict=True))
        states = tuple(
            replace(state, initial=found[state.input].row(state.batch_axis, f"{graph.name}: the state {state.source}"))
            if state.input in found
            else state
            for state in contract.states
        )
        part = contract.initial_state_graph
        return replace(contract, states=states, initial_state_graph=part and part.over(graph))

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
