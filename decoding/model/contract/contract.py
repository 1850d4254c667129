"""`Contract`: the role of every input and output of a step graph, and the evidence for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from decoding.model.contract.initial_states import InitialStateGraph
from decoding.model.contract.io import AuxiliaryInput, Logits, State, Token, Window
from decoding.model.graph.types import Array

_CALLER = "given by the caller: context= or step_inputs="
_CALLER_STEPS = "given by the caller for each token: context= or step_inputs="


@dataclass(frozen=True)
class Contract:
    """Roles of every input and output of a prepared step graph.

    Attributes:
        auxiliary_inputs: the graph's inputs that are neither token nor state.
        sequence: the graph takes several tokens in one run, so one run prefills a prompt.
        window: how to decode a graph that cannot be stepped; it then has no states.
        attention: the output with the weights over the source, [batch, source] at each step.
        pads: contexts of unequal length may share a batch: padding changes no result.
        longest: tokens that a sequence may have; None where no limit is known.
        longest_run: tokens that one run may read, where it takes several; None where no limit is known.
        initial_state_graph: computes initial states from contexts and latents, where the file does so inside.
        notes: what `load()` decided and the evidence, one sentence each.
        givers: what gives a context or an initial state, in words, where the caller does not: "the encoder's hidden".
    """

    token: Token
    logits: Logits
    states: tuple[State, ...]
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    sequence: bool
    window: Window | None = None
    attention: str | None = None
    pads: bool = False
    longest: int | None = None
    longest_run: int | None = None
    initial_state_graph: InitialStateGraph | None = None
    notes: tuple[str, ...] = ()
    givers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_auxiliary_inputs(self) -> tuple[AuxiliaryInput, ...]:
        """The auxiliary inputs of the graph, then those that only the initial states are computed from."""
        stepped = {aux.name for aux in self.auxiliary_inputs}
        return (*self.auxiliary_inputs, *(aux for aux in self._initial_inputs if aux.name not in stepped))

    @property
    def contexts(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that the caller or an encoder gives for each request."""
        return tuple(aux for aux in self.all_auxiliary_inputs if aux.kind == "context")

    @property
    def step_contexts(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that the caller or an encoder gives for each token of a request."""
        return tuple(aux for aux in self.auxiliary_inputs if aux.kind == "step_context")

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn."""
        return tuple(aux for aux in self.all_auxiliary_inputs if aux.kind == "latent")

    @property
    def one_token_a_run(self) -> bool:
        """Return whether tokens are fed one by one, because an input has a value for each token and takes one a run."""
        return any(aux.every_step and not aux.timed for aux in self.all_auxiliary_inputs)

    @property
    def row_inputs(self) -> tuple[AuxiliaryInput, ...]:
        """The graph's auxiliary inputs that hold a value for each row: contexts, their lengths and masks, and latents."""
        return tuple(aux for aux in self.auxiliary_inputs if aux.of_rows)

    @property
    def initial_inputs(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that initial states depend on: by their values, or by their sizes."""
        wide = {s.width_of for s in self.states}
        return (*self._initial_inputs, *(aux for aux in self.auxiliary_inputs if aux.name in wide))

    @property
    def _initial_inputs(self) -> tuple[AuxiliaryInput, ...]:
        return () if self.initial_state_graph is None else self.initial_state_graph.auxiliary_inputs

    def with_notes(self, *notes: str) -> Contract:
        """The same with these notes after its own."""
        return replace(self, notes=(*self.notes, *notes))

    def initial_states(self, batch: int, contexts: Mapping[str, Array]) -> dict[str, Array]:
        """Initial states of `batch` rows by the state's input.

        Args:
            contexts: contexts and latents [batch, ...] by name; only `initial_state_graph` reads them, and states that are as
                wide as one of them.
        """
        values = {state.input: state.initial_rows(batch, self.width(state, contexts)) for state in self.states}
        computed = self.initial_state_graph.run(contexts) if self.initial_state_graph is not None else {}
        return values | {name: value for name, value in computed.items() if name in values}

    def width(self, state: State, contexts: Mapping[str, Array]) -> int | None:
        """The size of a state's free axis: that of the context [batch, ...] that it is as wide as. None where that is not known."""
        if state.width_of not in contexts:
            return None
        axis = next(aux.source_axis for aux in self.contexts if aux.name == state.width_of)
        return int(contexts[state.width_of].shape[1 + (axis or 0)])

    def probe_contexts(self, batch: int) -> dict[str, Array]:
        """Numbers to probe with for the inputs that initial states are computed from, [batch, ...] by name."""
        return {aux.name: aux.value(self.token, batch, 1) for aux in self._initial_inputs}

    def feeds(self, ids: Array, first: Array | int = 0, context: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Every input but the states, by name, for a run over `ids` [batch, time].

        Args:
            first: position of each row's first token in its sequence, [batch] or one for all.
            context: values of auxiliary inputs by name; a context that is not among them gets numbers to probe with.
        """
        given = context or {}
        others = {
            aux.name: aux.value(self.token, len(ids), ids.shape[1], first)
            for aux in self.auxiliary_inputs
            if aux.name not in given
        }
        return {self.token.name: self.token.arrange(ids), **others, **given}

    def describe(self) -> str:
        """Table of the roles, then a line for each note."""
        axes = {"B": "[batch]", "BT": "[batch, time]", "TB": "[time, batch]"}[self.token.layout]
        v = self.logits.vocab_size
        names = {"B": "batch", "T": "time", "V": str(v)}
        out = f"[{', '.join(names[axis] for axis in self.logits.layout)}]"
        rows = [("token", self.token.name, f"int64 {axes}", "a whole prompt in one run" if self.sequence else "one step a run"),
                ("logits", self.logits.name, f"float32 {out}", ""),
                *map(self._state_row, self.states),
                *map(self._auxiliary_row, self.all_auxiliary_inputs)]  # fmt: skip
        if self.attention is not None:
            rows.append(("attention", self.attention, "[batch, source]", "returned with return_attention=True"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip() for row in rows
        ]
        if self.window is not None:
            lines.append(self.window.describe())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _state_row(self, state: State) -> tuple[str, str, str, str]:
        names = {
            state.free_axis: f"that of {state.width_of}" if state.width_of else "tokens so far",
            state.batch_axis: "batch",
        }
        dims = [names.get(axis, str(d)) for axis, d in enumerate(state.initial.shape)]
        own = "values in the file" if state.initial.any() else "zeros"
        initial = f"starts from {self.givers.get(state.input, own)}"
        shape = f"{state.dtype} [{', '.join(dims)}]"
        return "state", f"{state.input} -> {state.output}", shape, f"{state.source}; {initial}"

    def _auxiliary_row(self, aux: AuxiliaryInput) -> tuple[str, str, str, str]:
        sizes = ", ".join(["batch", *("?" if size is None else str(size) for size in aux.sizes)])
        if aux.kind == "context":
            return "context", aux.name, f"{aux.dtype} [{sizes}]", self.givers.get(aux.name, _CALLER)
        if aux.kind == "step_context":
            steps = ", ".join(
                ["batch", "time", *map(str, aux.step_sizes)] if aux.timed else ["batch", *map(str, aux.sizes)]
            )
            return "step context", aux.name, f"{aux.dtype} [{steps}]", self.givers.get(aux.name, _CALLER_STEPS)
        if aux.kind == "latent":
            return "latent", aux.name, f"{aux.dtype} [{sizes}]", f"drawn: {aux.draw}"
        if aux.of_rows:
            what = "0 where there is no padding" if aux.inverted else "filled for each prompt"
            return aux.kind.replace("_", " "), aux.name, str(aux.dtype), f"of {aux.source}: {what}"
        return aux.kind, aux.name, str(aux.dtype), "filled at every step"
