"""The protocol that every batch satisfies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from decoding.engine.batch.reduction import Candidates
from decoding.engine.request import EngineRequest
from decoding.model.graph.types import Array
from decoding.processors import History

States = Sequence[Any]  # only the batch that returned them knows what they are


class Contexts(Protocol):
    """What a search asks of a batch's contexts.

    Attributes:
        moves: some of them are written anew before each step, so that `refresh` must be called.
    """

    moves: bool

    def refresh(self, histories: Callable[[], History], size: int) -> None:
        """Write what this step's tokens have of their own."""

    def source_length(self, slot: int, width: int) -> int:
        """Return how many of `width` weights over the source belong to the row's own source: the rest weighs padding."""


class Batch(Protocol):
    """Up to `capacity` rows that take one step together.

    Attributes:
        capacity: the number of slots.
        size: rows in the batch: the first slots.
        tokens: int64 [capacity], the tokens that the next step feeds.
        logits: float32 [capacity, V], those of the last step; the first `size` rows count.
        adds_up: the logits are scores that beam search adds up as they are, rather than their log-softmax.
        candidates: which part of the logits came down from a device; None: `logits` are all of them.
        attention: float32 [capacity, source], the weights of the last step; None where they are not wanted.
        context: the contexts of the rows.
        read_chunk: returns the states after `count` more tokens of the requests that are at given slots and have read
            `start` ids, read in one run; None where rows read a token a step.
    """

    capacity: int
    size: int
    tokens: Array
    logits: Array
    attention: Array | None

    @property
    def adds_up(self) -> bool: ...

    @property
    def context(self) -> Contexts: ...

    @property
    def candidates(self) -> Candidates | None: ...

    @property
    def read_chunk(self) -> Callable[[Array, Sequence[EngineRequest], Array, int], States] | None: ...

    def start(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start these requests at `slots`, from their initial states, which come after `read` ids."""

    def take(self, slots: Array) -> States:
        """Return a copy of the states of these rows."""

    def states_before(self, slots: Array, steps: int) -> list[dict[str, Array]]:
        """Return a copy of the states of each of these rows as they are now, or as they were before the last step where `steps` is 1.

        They have the names of the state inputs and no batch axis. Nothing may have moved the rows since that step.
        """

    def put(self, slots: Array, states: Any, index: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start requests at `slots` from the rows `index` of `states`, which come after `read` ids."""

    def step(self) -> None:
        """Run the network once: `tokens` and the states in, `logits` and the next states out."""

    def grow(self, count: int) -> None:
        """Add rows at the end, for `start` or `put` to fill."""

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `slots`, in that order; a slot may be named more than once."""
