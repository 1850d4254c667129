"""The contract of a step graph: which input and output plays which role, and on what evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from decoding.model.contract.io import AuxiliaryInput, Logits, State, Token, Window
from decoding.model.graph.types import Array

if TYPE_CHECKING:
    from decoding.model.contract.initial_states import InitialStateGraph


_CALLER = "given by the caller: context= or step_inputs="


@dataclass(frozen=True)
class Contract:
    """Roles of every input and output of a prepared step graph.

    Attributes:
        sequence: the graph takes several tokens in one run, so that a prompt is prefilled in one.
        attention: output with the weights over the source, [batch, source] at each step.
        starter: computes the first values of states from contexts and latents, where the file does so inside.
        pads: contexts of unequal length may share a batch: padding was seen to change nothing.
        window: how to decode a graph that cannot be stepped; it then has no states.
        notes: what `load()` decided and from what evidence, one sentence each.
        givers: who gives a context or a state's first value, in words, where an encoder does.
    """

    token: Token
    logits: Logits
    states: tuple[State, ...]
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    sequence: bool
    window: Window | None = None
    attention: str | None = None
    pads: bool = False
    initial_state_graph: InitialStateGraph | None = None
    notes: tuple[str, ...] = ()
    givers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_auxiliary_inputs(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs of the graph, and of the part that only makes first states, that are neither token nor state."""
        stepped = {f.name for f in self.auxiliary_inputs}
        return (
            *self.auxiliary_inputs,
            *(
                f
                for f in (self.initial_state_graph.auxiliary_inputs if self.initial_state_graph else ())
                if f.name not in stepped
            ),
        )

    @property
    def contexts(self) -> tuple[AuxiliaryInput, ...]:
        """What the caller or an encoder gives."""
        return tuple(f for f in self.all_auxiliary_inputs if f.kind == "context")

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn."""
        return tuple(f for f in self.all_auxiliary_inputs if f.kind == "latent")

    @property
    def draws_alone(self) -> bool:
        """Is there a latent that is another at every step, but takes one value a run, so that tokens are fed one by one?"""
        return any(f.draw.every == "step" and not f.timed for f in self.latents)

    @property
    def row_inputs(self) -> tuple[AuxiliaryInput, ...]:
        """The graph's inputs whose values belong to rows: contexts, what tells their padding, and latents."""
        return tuple(f for f in self.auxiliary_inputs if f.of_rows)

    def initial_states(self, batch: int, contexts: Mapping[str, Array]) -> dict[str, Array]:
        """What the states of so many rows start from, by input; `contexts` [batch, ...], latents too, are looked at where they tell."""
        starts = {s.input: s.start(batch) for s in self.states}
        computed = self.initial_state_graph.run(contexts) if self.initial_state_graph is not None else {}
        return starts | {name: value for name, value in computed.items() if name in starts}

    def probe_contexts(self, batch: int, time: int = 1) -> dict[str, Array]:
        """Contexts and latents to probe with, and what tells their padding, where first states are computed from them."""
        auxiliary_inputs = self.initial_state_graph.auxiliary_inputs if self.initial_state_graph is not None else ()
        return {f.name: f.value(self.token, batch, time) for f in auxiliary_inputs}

    def feeds(self, ids: Array, start: Array | int = 0, context: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Everything but the states for a run over `ids` [B, T], whose first tokens have the positions `start`.

        Contexts that are not given are filled with numbers to probe with.
        """
        auxiliary_inputs = {
            f.name: f.value(self.token, len(ids), ids.shape[1], start)
            for f in self.auxiliary_inputs
            if f.name not in (context or {})
        }
        return {self.token.name: self.token.arrange(ids), **auxiliary_inputs, **(context or {})}

    def describe(self) -> str:
        """The roles as a table that a person can read."""
        axes = {"B": "[batch]", "BT": "[batch, time]", "TB": "[time, batch]"}[self.token.layout]
        v = self.logits.vocab_size
        names = {"B": "batch", "T": "time", "V": str(v)}
        out = f"[{', '.join(names[axis] for axis in self.logits.layout)}]"
        rows = [("token", self.token.name, f"int64 {axes}", "a whole prompt in one run" if self.sequence else "one step a run"),
                ("logits", self.logits.name, f"float32 {out}", "")]  # fmt: skip
        for state in self.states:
            dims = ["batch" if axis == state.batch_axis else str(d) for axis, d in enumerate(state.initial.shape)]
            start = "starts at zero" if not state.initial.any() else "starts at a value of its own"
            start = f"starts as {self.givers[state.input]}" if state.input in self.givers else start
            rows.append(
                (
                    "state",
                    f"{state.input} -> {state.output}",
                    f"{state.dtype} [{', '.join(dims)}]",
                    f"{state.source}; {start}",
                )
            )
        for aux in self.all_auxiliary_inputs:
            sizes = ", ".join(["batch", *("?" if size is None else str(size) for size in aux.sizes)])
            if aux.kind == "context":
                rows.append(("context", aux.name, f"{aux.dtype} [{sizes}]", self.givers.get(aux.name, _CALLER)))
            elif aux.kind == "latent":
                rows.append(("latent", aux.name, f"{aux.dtype} [{sizes}]", f"drawn: {aux.draw}"))
            elif aux.of_rows:
                what = "0 where there is no padding" if aux.inverted else "filled for each prompt"
                rows.append((aux.kind.replace("_", " "), aux.name, str(aux.dtype), f"of {aux.source}: {what}"))
            else:
                rows.append((aux.kind, aux.name, str(aux.dtype), "filled at every step"))
        if self.attention is not None:
            rows.append(("attention", self.attention, "[batch, source]", "given back by return_attention=True"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip() for row in rows
        ]
        if self.window is not None:
            lines.append(self.window.describe())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
