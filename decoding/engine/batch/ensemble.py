"""The batch of an ensemble: a batch of each member, whose scores are combined after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from decoding import kernels
from decoding._types import StepInputs
from decoding.engine.batch.ensemble_run import EnsembleRun
from decoding.engine.batch.host import HostBatch
from decoding.engine.batch.protocol import Batch, States
from decoding.engine.batch.together import Together, rows_worth_threads
from decoding.engine.latents import Latents
from decoding.engine.request import Call, EngineRequest
from decoding.kernels import NativeRun
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.ensembles.network import EnsembleNetwork, Member, under
from decoding.model.graph.types import Array
from decoding.model.runtime.session import Binding
from decoding.processors import History


class EnsembleBatch:
    """A `Batch` of several: a row has the same slot in each of them, and all of them feed the same tokens.

    Args:
        batches: one for each member.
        in_chunks: prompts may be read in chunks: nothing is computed anew for each token.
        adds_up: beam search adds the scores up: they are then true log-probabilities, which take a pass over all logits more.

    Attributes:
        in_place: the step is native, that of every member: see `HostBatch`.
    """

    candidates = None
    attention: Array | None = None

    def __init__(
        self, network: EnsembleNetwork, capacity: int, batches: Sequence[Batch], *, adds_up: bool, in_chunks: bool
    ) -> None:
        self.adds_up, self._in_chunks = adds_up, in_chunks
        self._members, self._batches = network.members, batches
        self._weights = [member.weight for member in network.members]
        self._combination: Literal["logits", "logprobs", "probs"] = (
            "probs" if network.combine == "probs" else "logprobs" if adds_up else "logits"
        )
        self.capacity = capacity
        self.tokens = np.zeros(capacity, np.int64)
        shape = (capacity, network.vocab_size)
        self.logits = np.zeros(shape, np.float32)
        self.context = MemberContexts(batches)
        # Rows whose members feed ids of their own in the next step: the last of their prompts.
        self._feeds_own = np.zeros(capacity, bool)
        self._worth_threads = rows_worth_threads(network)
        self._together = Together([batch.step for batch in batches], self._worth_threads)
        self._native = [batch for batch in batches if isinstance(batch, HostBatch | EnsembleBatch) and batch.in_place]
        self.in_place: bool = len(self._native) == len(batches)
        self._runs: dict[tuple[Binding | NativeRun, ...], EnsembleRun] = {}

    @property
    def size(self) -> int:
        """Rows in the batch: the first slots."""
        return self._batches[0].size

    @size.setter
    def size(self, size: int) -> None:
        for batch in self._batches:
            batch.size = size

    @property
    def keeps_before(self) -> bool:
        """Whether the states before the last step are wanted."""
        return any(isinstance(batch, HostBatch | EnsembleBatch) and batch.keeps_before for batch in self._batches)

    @keeps_before.setter
    def keeps_before(self, wanted: bool) -> None:
        for batch in self._batches:
            if isinstance(batch, HostBatch | EnsembleBatch):
                batch.keeps_before = wanted

    @property
    def read_chunk(self) -> Callable[[Array, Sequence[EngineRequest], Array, int], States] | None:
        """The method that reads many tokens in a run, where all members have one."""
        reads = self._in_chunks and all(batch.read_chunk is not None for batch in self._batches)
        return self._read_chunk if reads else None

    def start(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        """Start these requests at `slots`, from their initial states, which come after `read` ids."""
        for member, batch in zip(self._members, self._batches, strict=True):
            batch.start(slots, [part(member, request) for request in requests], _read_by(member, requests, read))
        self._feed(slots, requests, read)

    def take(self, slots: Array) -> list[States]:
        """Return a copy of the states of these rows, those of each member."""
        return [batch.take(slots) for batch in self._batches]

    def states_before(self, slots: Array, steps: int) -> list[dict[str, Array]]:
        """Return a copy of the states of each of these rows as they are now, or as they were before the last step where `steps` is 1."""
        found: list[dict[str, Array]] = [{} for _ in slots]
        for member, batch in zip(self._members, self._batches, strict=True):
            for row, own in zip(found, batch.states_before(slots, steps), strict=True):
                row.update({member.full(name): value for name, value in own.items()})
        return found

    def put(self, slots: Array, states: Sequence[States], index: Array, requests: Sequence[EngineRequest], read: Array) -> None:  # fmt: skip
        """Start requests at `slots` from the rows `index` of `states`, which come after `read` ids."""
        for member, batch, own in zip(self._members, self._batches, states, strict=True):
            parts = [part(member, request) for request in requests]
            batch.put(slots, own, index, parts, _read_by(member, requests, read))
        self._feed(slots, requests, read)

    def step(self) -> None:
        """Take a step of every member with `tokens`, and combine their logits."""
        if self.in_place:
            self.copy_before()
            self.bound().run()
            self.moved(1)
            return
        n = self.size
        for batch in self._batches:
            np.copyto(batch.tokens[:n], self.tokens[:n], where=~self._feeds_own[:n])
        self._feeds_own[:n] = False
        self._together.run(n)
        kernels.combine(
            [batch.logits[:n] for batch in self._batches], self._weights, self._combination, self.logits[:n]
        )

    def bound(self) -> EnsembleRun:
        """Return the run of the next native step over these rows."""
        return self._combined(tuple(batch.bound() for batch in self._native))

    def bound_aside(self) -> EnsembleRun:
        """Return the run over the other set of states, which a step in place leaves as they are."""
        return self._combined(tuple(batch.bound_aside() for batch in self._native))

    def moved(self, steps: int) -> None:
        """Note that the bound run took that many steps."""
        for batch in self._native:
            batch.moved(steps)

    def copy_before(self) -> None:
        """Keep the states before a step in place, where they are wanted."""
        for batch in self._native:
            batch.copy_before()

    def _combined(self, runs: tuple[Binding | NativeRun, ...]) -> EnsembleRun:
        found = self._runs.get(runs)
        if found is None:
            if len(self._runs) > 2 * self.capacity:  # some are over buffers that are no more
                self._runs.clear()
            n = self.size
            found = EnsembleRun(
                runs, self._weights, self._combination, self.tokens[:n], self._feeds_own[:n], self.logits[:n],
                threads=len(runs) if n >= self._worth_threads else 1,
            )  # fmt: skip
            self._runs[runs] = found
        return found

    def grow(self, count: int) -> None:
        """Add rows at the end, for `start` or `put` to fill."""
        for batch in self._batches:
            batch.grow(count)

    def keep(self, slots: Array) -> None:
        """Go on with the rows at `slots`, in that order; a slot may be named more than once."""
        for batch in self._batches:
            batch.keep(slots)
        for array in (self.tokens, self._feeds_own):
            array[: len(slots)] = array[slots]

    def _read_chunk(self, slots: Array, requests: Sequence[EngineRequest], start: Array, count: int) -> list[States]:
        found = []
        for member, batch in zip(self._members, self._batches, strict=True):
            assert batch.read_chunk is not None
            parts = [part(member, request) for request in requests]
            found.append(batch.read_chunk(slots, parts, _read_by(member, requests, start), count))
        return found

    def _feed(self, slots: Array, requests: Sequence[EngineRequest], read: Array) -> None:
        self.tokens[slots] = [request.ids[at] for request, at in zip(requests, read, strict=True)]
        self._feeds_own[slots] = [at < r.start and bool(r.prefixes) for r, at in zip(requests, read, strict=True)]


class MemberContexts:
    """The contexts of an ensemble's rows: those of each member."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._contexts = [batch.context for batch in batches]
        self.moves = any(context.moves for context in self._contexts)

    def refresh(self, histories: Callable[[], History], size: int) -> None:
        """Write what this step's tokens have of their own, in all members; they see one history."""
        if not self.moves:
            return
        seen: list[History] = []

        def history() -> History:
            if not seen:
                seen.append(histories())
            return seen[0]

        for context in self._contexts:
            context.refresh(history, size)

    def source_length(self, slot: int, width: int) -> int:
        """Return `width`: an ensemble has no attention of its own."""
        return width


class MemberStepInputs:
    """The caller's `step_inputs` for the members: it is called once a step, and each member takes its part."""

    def __init__(self, step_inputs: StepInputs) -> None:
        self._step_inputs = step_inputs
        self._last: tuple[History, Mapping[str, Array]] | None = None

    def of(self, member: Member) -> StepInputs:
        """Return the function of one member."""
        return lambda history: member.read(self._values(history))

    def _values(self, history: History) -> Mapping[str, Array]:
        if self._last is None or self._last[0] is not history:
            self._last = history, self._step_inputs(history)
        return self._last[1]


class MemberLatents(Latents):
    """The latents that are drawn anew at every step, as one member reads them."""

    def __init__(self, latents: Latents, member: Member) -> None:
        super().__init__(member.network.latent_families)
        self._latents, self._member = latents, member

    def steps(
        self, auxiliary_inputs: Sequence[AuxiliaryInput], sequences: Array, starts: Array, count: int
    ) -> dict[str, Array]:
        """Return the values for `count` positions from `starts` on, see `Latents.steps`."""
        renamed = [replace(aux, name=self._member.input(aux.name)) for aux in auxiliary_inputs if aux.kind == "latent"]
        return self._member.read(self._latents.steps(renamed, sequences, starts, count))


def member_call(call: Call, member: Member) -> Call:
    """Return the call as one member of the ensemble sees it: with its own latents; its `step_inputs` are shared, see `MemberStepInputs`."""
    return replace(call, latents=None if call.latents is None else MemberLatents(call.latents, member))


def part(member: Member, request: EngineRequest) -> EngineRequest:
    """Return the request as one member of the ensemble reads it: with its own prompt, contexts and states."""
    own = replace(request, context=member.read(request.context), states=member.states(request.states))
    if not request.prefixes:
        return own
    longer = _longer(member, request)
    return replace(
        own,
        ids=np.concatenate(
            [request.prefixes.get(member.name, request.ids[: request.start]), request.ids[request.start :]]
        ),
        read=request.read + longer if request.prefixes_read else 0,
        start=request.start + longer,
        prefixes=under(member.name, request.prefixes),
    )


def _longer(member: Member, request: EngineRequest) -> int:
    """Return how many ids more a member reads than the request has."""
    own = request.prefixes.get(member.name)
    return 0 if own is None else len(own) - request.start


def _read_by(member: Member, requests: Sequence[EngineRequest], read: Array) -> Array:
    """Return how many ids a member has read where `read` of the requests' ids are."""
    by_member: Array = read + np.array([_longer(member, request) for request in requests])
    return by_member
