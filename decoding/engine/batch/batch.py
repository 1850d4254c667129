"""The protocol that every batch satisfies, and the choice of the batch for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from decoding.engine.batch.contexts import ContextRows
from decoding.engine.batch.device import DeviceBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.batch.ragged import RaggedBatch
from decoding.engine.batch.reduction import Candidates, reduction_for
from decoding.engine.batch.window import WindowBatch
from decoding.engine.request import Call, EngineRequest
from decoding.errors import DecodeError, ModelError
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History

States = Sequence[Any]  # only the batch that returned them knows what they are


class Batch(Protocol):
    """Up to `capacity` rows that take one step together.

    Attributes:
        capacity: the number of slots.
        size: rows in the batch: the first slots.
        tokens: int64 [capacity], the tokens that the next step feeds.
        logits: float32 [capacity, V], those of the last step; the first `size` rows count.
        candidates: which part of the logits came down from a device; None: `logits` are all of them.
        attention: float32 [capacity, source], the weights of the last step; None where they are not wanted.
        context: the contexts of the rows.
        read_chunk: returns the states after many tokens, read in one run by the rows at given slots; None where rows
            read a token a step.
    """

    capacity: int
    size: int
    tokens: Array
    logits: Array
    attention: Array | None
    context: ContextRows

    @property
    def candidates(self) -> Candidates | None: ...

    @property
    def read_chunk(self) -> Callable[[Array, Mapping[str, Array]], States] | None: ...

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


def failed_step(network: Network, error: ModelError, history: History) -> DecodeError | ModelError:
    """Return the error of a step that the network could not run, with its place and the likely cause.

    An error of a device, whose memory may be full, stays as it is.

    Args:
        history: of the rows that took the step.
    """
    if network.on_device or not len(history):
        return error
    step = max(len(ids) for ids in history)
    return DecodeError(
        f"the run from token {step} on of the longest of {len(history)} rows: {error}. Likely the graph holds only up to some length (a table of positions, a size that the "
        "export baked), or a context has an id that its table lacks: pass a smaller max_new_tokens, check context=, or export it with dynamic sizes",
        step=step,
    )


def make_batch(
    network: Network,
    capacity: int,
    call: Call,
    *,
    attention: bool = False,
    reduce: bool = True,
) -> Batch:
    """Return the batch for a model that is stepped (here or on a device, with states of equal sizes or not), or whose prefixes are run anew.

    Args:
        call: its strategy needs some of the logits or all; `reduce`: whether only these need come from a device.
        attention: whether the batch has the weights of each step too; the model has them, and is stepped.
    """
    c = network.contract
    context = ContextRows(c.row_inputs, capacity, call.step_inputs, call.latents)
    if c.window is not None:
        return WindowBatch(network, c.window, capacity, context)
    if network.on_device:
        reduction = reduction_for(network, call, capacity) if reduce and not call.mixed else None
        return DeviceBatch(network, capacity, context, attention, reduction)
    if any(state.free_axis is not None for state in c.states):
        return RaggedBatch(network, capacity, context, attention)
    return HostBatch(network, capacity, context, attention)
