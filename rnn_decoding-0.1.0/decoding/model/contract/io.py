"""The roles of a step graph's inputs and outputs: `Token`, `Logits`, `State`, `AuxiliaryInput`, and `Window`, for graphs that cannot be stepped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decoding.errors import ModelError
from decoding.model.graph.types import Array

TokenLayout = Literal["B", "BT", "TB"]
AuxiliaryKind = Literal[
    "length", "mask", "position", "context", "step_context", "source_length", "source_mask", "latent"
]
LogitsLayout = Literal["BV", "BTV", "TBV", "BVT"]


@dataclass(frozen=True)
class Token:
    """The input that takes token ids, int64, of shape [B], [B, T] or [T, B]."""

    name: str
    layout: TokenLayout

    def arrange(self, ids: Array) -> Array:
        """Ids [B, T] in this input's layout; T must be 1 where the layout is [B]."""
        if self.layout == "BT":
            return ids
        return ids[:, 0] if self.layout == "B" else np.ascontiguousarray(ids.T)

    def batch_and_time(self, shape: Sequence[int | str | None] | None) -> tuple[int | None, int | None]:
        """Batch and time of a declared shape; None where a size is no number."""
        dims = [d if isinstance(d, int) else None for d in shape or (None, None)]
        batch, time = [*dims, None, None][:2]
        return (time, batch) if self.layout == "TB" else (batch, time)

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
        """The output as [B, T, V] (T is 1 where the graph scores only the last position).

        Raises:
            ModelError: the graph returns another rank for these sizes; one that squeezes its batch of one does.
        """
        if array.ndim != len(self.layout):
            raise ModelError(
                f"the logits {self.name} come out with the shape {list(array.shape)}, and for other sizes as {', '.join(self.layout)} (batch, time, vocabulary); "
                "export the graph with outputs of one rank for every batch and time"
            )
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
    """A recurrent state: the graph takes it as `input` and returns its next value as `output`.

    Attributes:
        batch_axis: the axis that counts rows.
        initial: the initial state of one row, of the state's shape.
        source: where the state was found, in words.
        exposed: it is an input and an output of the file, rather than one that `load()` exposed.
        free_axis: the axis whose size differs from row to row; None where there is none. `initial` then has zeros.
        width_of: the context whose source the state is as long as on that axis; empty where it grows with every token.
    """

    input: str
    output: str
    batch_axis: int
    initial: Array
    source: str
    exposed: bool = False
    free_axis: int | None = None
    width_of: str = ""

    @property
    def grows(self) -> bool:
        """Whether the state gets longer with every token."""
        return self.free_axis is not None and not self.width_of

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the state."""
        return self.initial.dtype

    def shape(self, batch: int) -> tuple[int, ...]:
        """Shape for `batch` rows."""
        shape = list(self.initial.shape)
        shape[self.batch_axis] = batch
        return tuple(shape)

    def initial_rows(self, batch: int, width: int | None = None) -> Array:
        """The initial state repeated for `batch` rows, `width` wide on the free axis."""
        if self.free_axis is not None and width is not None:
            shape = list(self.shape(batch))
            shape[self.free_axis] = width
            return np.zeros(shape, self.dtype)
        return np.array(np.broadcast_to(self.initial, self.shape(batch)))


# Size to probe a dynamic dimension of a context with.
PROBE_SIZE = 4


@dataclass(frozen=True)
class Draw:
    """How a latent is drawn: standard normal, or uniform in [0, 1); once a sequence, or anew at every step."""

    distribution: Literal["normal", "uniform"] = "normal"
    every: Literal["sequence", "step"] = "sequence"

    def __str__(self) -> str:
        how = "standard normal" if self.distribution == "normal" else "uniform in [0, 1)"
        return f"{how}, {'anew at every step' if self.every == 'step' else 'once a sequence'}"


@dataclass(frozen=True)
class AuxiliaryInput:
    """An input that is neither token nor state.

    Attributes:
        kind: "length" (tokens in this run), "mask" (ones) or "position" (of each token in its sequence), which follow
            the tokens; "context", which the caller or an encoder gives for each request; "step_context", which they give
            for each token of a request; "source_length" (how many positions of a context are no padding) or "source_mask"
            (ones there); "latent", which is drawn.
        rank: number of dimensions: [batch] or [batch, time]; [time, batch] where the token is.
        sizes: of a context's or latent's dimensions after the batch, None where any size will do.
        source_axis: the dimension after the batch along which a context may differ in length from request to request.
        source: the context whose padding a source_length or source_mask tells.
        width: the size of that context to probe with.
        inverted: the source_mask is 0 where there is no padding.
        draw: how a latent is drawn.
        pad_value: pads a context after its end.
        over_past: a mask is about all tokens of a sequence so far, as where keys of earlier tokens are in a state.
    """

    name: str
    kind: AuxiliaryKind
    dtype: np.dtype[Any]
    rank: int
    sizes: tuple[int | None, ...] = ()
    source_axis: int | None = None
    source: str = ""
    width: int = PROBE_SIZE
    inverted: bool = False
    draw: Draw = Draw()
    pad_value: float = 0
    over_past: bool = False

    @property
    def of_rows(self) -> bool:
        """Return whether each row has a value of its own, rather than one that follows from the tokens of a run."""
        return self.kind in ("context", "step_context", "source_length", "source_mask", "latent")

    @property
    def every_step(self) -> bool:
        """Return whether each token of a row has a value of its own."""
        return self.kind == "step_context" or (self.kind == "latent" and self.draw.every == "step")

    @property
    def timed(self) -> bool:
        """Return whether a run takes a value for each of its tokens, [batch, time, ...], rather than one, [batch, ...]."""
        return self.every_step and self.sizes[:1] == (None,)

    @property
    def step_sizes(self) -> tuple[int | None, ...]:
        """Sizes of the value for one token, where each token has one."""
        return self.sizes[1:] if self.timed else self.sizes

    def value(self, token: Token, batch: int, time: int, first: Array | int = 0) -> Array:
        """The input for a run of `time` tokens.

        A context or a latent gets numbers to probe with, other ones in each row.

        Args:
            first: position of each row's first token in its sequence, [batch] or one for all.
        """
        if self.kind in ("context", "step_context", "latent"):
            shape = (batch, *(PROBE_SIZE if size is None else size for size in self.sizes))
            if not self.timed:
                return probe_numbers(np.random.default_rng(0), shape, self.dtype)
            seed = int(np.asarray(first).flat[0])  # each position has numbers of its own
            return np.stack(
                [probe_numbers(np.random.default_rng(seed + t), (batch, *shape[2:]), self.dtype) for t in range(time)],
                1,
            )
        if self.kind in ("source_length", "source_mask"):
            return self.of_source([self.width] * batch, self.width)
        if self.kind == "length":
            return np.full((batch,), time, self.dtype)
        if self.kind == "mask":
            before = int(np.max(first)) if self.over_past else 0
            ids = np.ones((batch, before + time), self.dtype)
        else:
            ids = (np.broadcast_to(first, batch)[:, None] + np.arange(time)).astype(self.dtype)
        if self.rank < 2:
            return ids[:, 0] if self.rank == 1 else ids[0, 0]
        ids = np.ascontiguousarray(ids.T) if token.layout == "TB" else ids
        return ids.reshape(ids.shape + (1,) * (self.rank - 2))

    def of_source(self, lengths: Sequence[int] | Array, width: int) -> Array:
        """The source_length or source_mask of sources of these lengths, padded to `width`."""
        ends = np.asarray(lengths)
        if self.kind == "source_length":
            return ends.astype(self.dtype).reshape(-1, *(1,) * (self.rank - 1))
        real = (np.arange(width) < ends[:, None]) != self.inverted
        # [batch, source], or with axes of size 1 as attention scores have them: [batch, 1, source].
        filled: Array = real.astype(self.dtype)
        return filled.reshape(-1, *(width if size is None else 1 for size in self.sizes or (None,)))


@dataclass(frozen=True)
class Window:
    """How a graph that cannot be stepped is decoded: at every step it runs over the end of the prefix again.

    Attributes:
        size: tokens that the graph takes; None for the whole prefix, whatever its length.
        pad: the side on which a shorter prefix is padded up to `size`, with `pad_id`.
    """

    size: int | None = None
    pad: Literal["left", "right"] = "left"
    pad_id: int = 0

    def shown(self, length: int) -> int:
        """Number of ids that the graph takes for a prefix of this length."""
        return self.size or length

    def cut(self, prefix: Sequence[int], length: int) -> list[int]:
        """The last `length` ids, padded."""
        ids = list(prefix[-length:])
        padding = [self.pad_id] * (length - len(ids))
        return padding + ids if self.pad == "left" else ids + padding

    def end(self, length: int, positions: int) -> int:
        """Index of the output position that scores the token after a prefix of this length."""
        return min(length, positions) - 1 if self.pad == "right" else -1

    def describe(self) -> str:
        """One sentence on the window and its cost."""
        if self.size is None:
            return "window mode: the whole prefix is run at every step, so a sequence of n tokens costs n*n/2 of them"
        return f"window mode: the last {self.size} tokens ({self.pad}-padded with {self.pad_id}) are run at every step, {self.size} times the cost of a step"


def probe_numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Normal numbers to probe an input with; for an input of whole numbers 0 and 1, which every table has."""
    return (rng.integers(0, 2, shape) if dtype.kind in "iu" else rng.standard_normal(shape)).astype(dtype)
