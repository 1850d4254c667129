"""The contract of a step graph: which input and output plays which role, and on what evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from decoding.model.ports import Array

if TYPE_CHECKING:
    from decoding.model.starting import Starter

TokenLayout = Literal["B", "BT", "TB"]
FillKind = Literal["length", "mask", "position", "context", "source_length", "source_mask", "latent"]
LogitsLayout = Literal["BV", "BTV", "TBV", "BVT"]


@dataclass(frozen=True)
class Token:
    """The input that takes token ids, int64, of shape [B], [B, T] or [T, B]."""

    name: str
    layout: TokenLayout

    def arrange(self, ids: Array) -> Array:
        """Ids [B, T] as this input wants them; T must be 1 where it takes [B]."""
        if self.layout == "BT":
            return ids
        return ids[:, 0] if self.layout == "B" else np.ascontiguousarray(ids.T)

    def batch_and_time(self, shape: Sequence[int | str | None] | None) -> tuple[int | None, int | None]:
        """The numbers among a declared shape's batch and time."""
        dims = [d if isinstance(d, int) else None for d in shape or (None, None)]
        batch, time = [*dims, None][:2] if self.layout != "TB" else dims[::-1]
        return batch, time

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape of one step's ids."""
        return {"B": (batch,), "BT": (batch, 1), "TB": (1, batch)}[self.layout]


@dataclass(frozen=True)
class Logits:
    """The output with one float32 score a vocabulary entry: [B, V], [B, T, V], [T, B, V] or [B, V, T]."""

    name: str
    layout: LogitsLayout
    vocab_size: int

    def arrange(self, array: Array) -> Array:
        """The output as [B, T, V] (T is 1 where the graph gives only the last position)."""
        if self.layout == "BV":
            return array[:, None]
        axes = [self.layout.index(axis) for axis in "BTV"]
        return array.transpose(axes)

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape of one step's output."""
        sizes = {"B": batch, "T": 1, "V": self.vocab_size}
        return tuple(sizes[axis] for axis in self.layout)


@dataclass(frozen=True)
class State:
    """A recurrent state: the graph takes it in as `input` and gives its next value as `output`.

    Attributes:
        batch_axis: the axis that counts rows.
        initial: value before the first token, of the state's shape with a batch of one.
        source: where it came from, in words.
        exposed: the file takes and gives it by itself.
    """

    input: str
    output: str
    batch_axis: int
    initial: Array
    source: str
    exposed: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the state."""
        return self.initial.dtype

    def shape(self, batch: int) -> tuple[int, ...]:
        """Shape for `batch` rows."""
        shape = list(self.initial.shape)
        shape[self.batch_axis] = batch
        return tuple(shape)

    def start(self, batch: int) -> Array:
        """The initial value for `batch` rows."""
        return np.array(np.broadcast_to(self.initial, self.shape(batch)))


# Size to probe a free dimension of a context with.
_ANY_SIZE = 4


@dataclass(frozen=True)
class Draw:
    """How a latent is drawn: standard normal, or uniform in [0, 1); once a sequence, or anew at every step."""

    distribution: Literal["normal", "uniform"] = "normal"
    every: Literal["sequence", "step"] = "sequence"

    def __str__(self) -> str:
        how = "standard normal" if self.distribution == "normal" else "uniform in [0, 1)"
        return f"{how}, {'anew at every step' if self.every == 'step' else 'once a sequence'}"


@dataclass(frozen=True)
class Fill:
    """An input that is neither token nor state.

    Attributes:
        kind: "length" (tokens in this run), "mask" (ones) or "position" (of each token in its sequence), which follow
            the tokens; "context", which the caller or an encoder gives for each prompt or each step; "source_length"
            (positions of a context that are no padding) or "source_mask" (ones there); "latent", which is drawn.
        rank: number of dimensions: [batch] or [batch, time], turned where the token is [time, batch].
        sizes: of a context's or latent's dimensions behind the batch, None where any size will do.
        source_axis: the dimension behind the batch along which a context may differ in length from prompt to prompt.
        source: of a source_length or source_mask, the context that it is about.
        width: of a source_length or source_mask, the size of its context to probe with.
        inverted: a source_mask that is 0 where there is no padding.
        draw: of a latent.
        pad_value: what stands behind the end of a context.
    """

    name: str
    kind: FillKind
    dtype: np.dtype[Any]
    rank: int
    sizes: tuple[int | None, ...] = ()
    source_axis: int | None = None
    source: str = ""
    width: int = _ANY_SIZE
    inverted: bool = False
    draw: Draw = Draw()
    pad_value: float = 0

    @property
    def of_rows(self) -> bool:
        """Does its value belong to a row, rather than follow from the tokens of a run?"""
        return self.kind in ("context", "source_length", "source_mask", "latent")

    @property
    def timed(self) -> bool:
        """Is it a latent with one value for each token of a run: [batch, time, ...]?"""
        return self.kind == "latent" and self.draw.every == "step" and self.sizes[:1] == (None,)

    def value(self, token: Token, batch: int, time: int, start: Array | int = 0) -> Array:
        """The input for a run of `time` tokens whose first has the position `start` (one for each row).

        For a context or a latent these are numbers to probe with, others in each row.
        """
        if self.kind in ("context", "latent"):
            shape = (batch, *(_ANY_SIZE if size is None else size for size in self.sizes))
            if not self.timed:
                return _probe_numbers(0, shape).astype(self.dtype)
            first = int(np.asarray(start).flat[0])  # of each position its own
            return np.stack([_probe_numbers(first + t, (batch, *shape[2:])) for t in range(time)], 1).astype(self.dtype)
        if self.kind in ("source_length", "source_mask"):
            return self.of_source([self.width] * batch, self.width)
        if self.kind == "length":
            return np.full((batch,), time, self.dtype)
        if self.kind == "mask":
            ids = np.ones((batch, time), self.dtype)
        else:
            ids = (np.broadcast_to(start, batch)[:, None] + np.arange(time)).astype(self.dtype)
        if self.rank < 2:
            return ids[:, 0] if self.rank == 1 else ids[0, 0]
        ids = np.ascontiguousarray(ids.T) if token.layout == "TB" else ids
        return ids.reshape(ids.shape + (1,) * (self.rank - 2))

    def of_source(self, lengths: Sequence[int] | Array, width: int) -> Array:
        """What says of sources of these lengths, padded to `width`, where they end."""
        ends = np.asarray(lengths)
        if self.kind == "source_length":
            return ends.astype(self.dtype).reshape(-1, *(1,) * (self.rank - 1))
        real = (np.arange(width) < ends[:, None]) != self.inverted
        # [batch, source], or with ones between or behind, as attention scores are: [batch, 1, source].
        filled: Array = real.astype(self.dtype)
        return filled.reshape(-1, *(width if size is None else 1 for size in self.sizes or (None,)))


@dataclass(frozen=True)
class Window:
    """How a graph that cannot be stepped is decoded: the end of the prefix goes in anew at every step.

    Attributes:
        size: tokens that the graph takes; None for the whole prefix, whatever its length.
        pad: on which side shorter prefixes are filled up to `size`, with `pad_id`.
    """

    size: int | None = None
    pad: Literal["left", "right"] = "left"
    pad_id: int = 0

    def shown(self, length: int) -> int:
        """How many ids go in for a prefix of this length."""
        return self.size or length

    def cut(self, prefix: Sequence[int], length: int) -> list[int]:
        """The last `length` ids, padded."""
        ids = list(prefix[-length:])
        padding = [self.pad_id] * (length - len(ids))
        return padding + ids if self.pad == "left" else ids + padding

    def end(self, length: int, positions: int) -> int:
        """Which of the output's positions scores the token after a prefix of this length."""
        return min(length, positions) - 1 if self.pad == "right" else -1

    def describe(self) -> str:
        """One sentence."""
        if self.size is None:
            return "window mode: the whole prefix is run at every step, so a sequence of n tokens costs n*n/2 of them"
        return f"window mode: the last {self.size} tokens ({self.pad}-padded with {self.pad_id}) are run at every step, {self.size} times the cost of a step"


def _probe_numbers(seed: int, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


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
    fills: tuple[Fill, ...]
    sequence: bool
    window: Window | None = None
    attention: str | None = None
    pads: bool = False
    starter: Starter | None = None
    notes: tuple[str, ...] = ()
    givers: Mapping[str, str] = field(default_factory=dict)

    @property
    def every_fill(self) -> tuple[Fill, ...]:
        """The inputs of the graph, and of the part that only makes first states, that are neither token nor state."""
        stepped = {f.name for f in self.fills}
        return (*self.fills, *(f for f in (self.starter.fills if self.starter else ()) if f.name not in stepped))

    @property
    def contexts(self) -> tuple[Fill, ...]:
        """What the caller or an encoder gives."""
        return tuple(f for f in self.every_fill if f.kind == "context")

    @property
    def latents(self) -> tuple[Fill, ...]:
        """The inputs that are drawn."""
        return tuple(f for f in self.every_fill if f.kind == "latent")

    @property
    def draws_alone(self) -> bool:
        """Is there a latent that is another at every step, but takes one value a run, so that tokens are fed one by one?"""
        return any(f.draw.every == "step" and not f.timed for f in self.latents)

    @property
    def row_fills(self) -> tuple[Fill, ...]:
        """The graph's inputs whose values belong to rows: contexts, what tells their padding, and latents."""
        return tuple(f for f in self.fills if f.of_rows)

    def first_states(self, batch: int, contexts: Mapping[str, Array]) -> dict[str, Array]:
        """What the states of so many rows start from, by input; `contexts` [batch, ...], latents too, are looked at where they tell."""
        starts = {s.input: s.start(batch) for s in self.states}
        computed = self.starter.run(contexts) if self.starter is not None else {}
        return starts | {name: value for name, value in computed.items() if name in starts}

    def probe_contexts(self, batch: int, time: int = 1) -> dict[str, Array]:
        """Contexts and latents to probe with, and what tells their padding, where first states are computed from them."""
        fills = self.starter.fills if self.starter is not None else ()
        return {f.name: f.value(self.token, batch, time) for f in fills}

    def feeds(self, ids: Array, start: Array | int = 0, context: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Everything but the states for a run over `ids` [B, T], whose first tokens have the positions `start`.

        Contexts that are not given are filled with numbers to probe with.
        """
        fills = {
            f.name: f.value(self.token, len(ids), ids.shape[1], start)
            for f in self.fills
            if f.name not in (context or {})
        }
        return {self.token.name: self.token.arrange(ids), **fills, **(context or {})}

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
        for fill in self.every_fill:
            sizes = ", ".join(["batch", *("?" if size is None else str(size) for size in fill.sizes)])
            if fill.kind == "context":
                rows.append(("context", fill.name, f"{fill.dtype} [{sizes}]", self.givers.get(fill.name, _CALLER)))
            elif fill.kind == "latent":
                rows.append(("latent", fill.name, f"{fill.dtype} [{sizes}]", f"drawn: {fill.draw}"))
            elif fill.of_rows:
                what = "0 where there is no padding" if fill.inverted else "filled for each prompt"
                rows.append((fill.kind.replace("_", " "), fill.name, str(fill.dtype), f"of {fill.source}: {what}"))
            else:
                rows.append((fill.kind, fill.name, str(fill.dtype), "filled at every step"))
        if self.attention is not None:
            rows.append(("attention", self.attention, "[batch, source]", "given back by return_attention=True"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip() for row in rows
        ]
        if self.window is not None:
            lines.append(self.window.describe())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
