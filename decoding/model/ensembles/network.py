"""`EnsembleNetwork`: what the engine knows of several networks that choose each token together."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput, Logits
from decoding.model.graph.types import Array
from decoding.model.network import Network

Combine = Literal["logprobs", "probs"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Member:
    """One network of an ensemble.

    Attributes:
        name: of the member. The ensemble's inputs and states have it in front of their own names: "lm.h0".
        weight: what its log-probabilities (or its probabilities) are multiplied by.
        reads: the name of the member whose inputs it reads: its own, or, in guidance, that of the model with its condition.
        null: inputs, by the member's own names, that have other values for it than those that are given: these, without an axis of
            rows, or None for zeros. In guidance they are the conditions that are left out.
        prompt: ids that it reads in place of every prompt; empty where it reads the prompts.
    """

    name: str
    network: Network
    weight: float
    reads: str = ""
    null: Mapping[str, Array | None] = field(default_factory=dict)
    prompt: tuple[int, ...] = ()

    def full(self, name: str) -> str:
        """Return what the ensemble calls a state of this member."""
        return f"{self.name}.{name}"

    def input(self, name: str) -> str:
        """Return what the ensemble calls an input of this member."""
        return f"{self.reads or self.name}.{name}"

    def read(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return those of the ensemble's values that are this member's, by its own names and as it reads them."""
        return self._nulled(under(self.reads or self.name, values))

    def states(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return those of the given states that are this member's, by its own names; they are given as inputs are, or after an output."""
        return under(self.name, values) or self.read(values)

    def _nulled(self, values: dict[str, Array]) -> dict[str, Array]:
        found = dict(values)
        for name in self.null.keys() & values.keys():
            value, null = values[name], self.null[name]
            found[name] = np.zeros_like(value) if null is None else np.array(np.broadcast_to(null, value.shape))
        return found


class EnsembleNetwork(Network):
    """Networks over one vocabulary, and how their scores are combined. Safe to use from several threads.

    Its contract has the inputs and states of all members; it has no graph of its own.

    Attributes:
        members: the networks with their names and weights.
        combine: "logprobs": the weighted sum of log-probabilities; "probs": the weighted mean of probabilities.
        in_threads: its members may take their steps in threads: no other workers use the cores.
    """

    def __init__(self, name: str, members: Sequence[Member], combine: Combine) -> None:
        self.name, self.members, self.combine = name, tuple(members), combine
        self.contract = _contract(self.members)
        encoded = [m for m in self.members if m.network.encoders is not None and not m.reads]
        self.encoders = EnsembleEncoders(encoded) if encoded else None  # type: ignore[assignment]
        self.in_threads = True
        self._alone: Network | None = None
        self._lock = threading.Lock()

    def single_threaded(self) -> Network:
        """Return the same ensemble over sessions of one intra-op thread; made once."""
        with self._lock:
            if self._alone is None:
                members = [replace(m, network=m.network.single_threaded()) for m in self.members]
                alone = EnsembleNetwork(self.name, members, self.combine)
                alone.in_threads, alone._alone = False, alone
                self._alone = alone
        return self._alone

    def plain(self, name: str) -> str:
        """Return the name that an input of the ensemble has in its member."""
        first, _, rest = name.partition(".")
        member = next((m for m in self.members if m.name == first), None)
        if member is None:
            return name
        return member.network.plain(rest) if isinstance(member.network, EnsembleNetwork) else rest

    def reads_windows(self, name: str) -> bool:
        """Return whether the input of this name is that of a member which runs over windows of many tokens."""
        first, _, rest = name.partition(".")
        return any(m.network.reads_windows(rest) for m in self.members if m.name == first)

    @property
    def parts(self) -> tuple[Network, ...]:
        """The networks that have sessions."""
        return tuple(part for member in self.members for part in member.network.parts)

    @property
    def threads(self) -> int | None:
        """The intra-op threads that the caller chose for a member; None where no member has any."""
        return next((part.threads for part in self.parts if part.threads is not None), None)

    @property
    def is_native(self) -> bool:
        """Whether the native step runs all members."""
        return all(member.network.is_native for member in self.members)

    @property
    def reads_chunks(self) -> bool:
        """Whether all members read several tokens of each row in one run."""
        return all(m.network.reads_chunks or m.network.contract.window is not None for m in self.members)

    @property
    def reads_chunks_on_device(self) -> bool:
        """Return False: nothing but a batch reads tokens by all members, so that rollouts read each prefix by itself."""
        return False

    @property
    def on_device(self) -> bool:
        """Whether a member is stepped on a device with memory of its own."""
        return any(member.network.on_device for member in self.members)

    @property
    def can_reduce(self) -> bool:
        """Return False: all logits of all members are combined."""
        return False

    @property
    def weight_bytes(self) -> int:
        """Size of the weights of all members in bytes."""
        return sum(member.network.weight_bytes for member in self.members)

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn, of all members."""
        return tuple(aux for family in self.latent_families for aux in family)

    @property
    def latent_families(self) -> tuple[tuple[AuxiliaryInput, ...], ...]:
        """The inputs that are drawn, for each member: it draws them as if it were alone."""
        return tuple(tuple(_renamed(m, aux) for aux in m.network.latents) for m in self.members if not m.reads)

    @cached_property
    def fingerprint(self) -> str:
        """A number of all members and their weights, as text."""
        found = hashlib.sha256(self.combine.encode())
        for member in self.members:
            found.update(f"{member.name} {member.weight!r} {member.network.fingerprint}".encode())
            found.update(str(member.prompt).encode() if member.prompt else b"")
            for name, value in sorted(member.null.items()):
                found.update(name.encode() + (b"" if value is None else value.tobytes()))
        return found.hexdigest()


def reads_apart(network: Network) -> bool:
    """Return whether a member, or a member of one, reads a prompt of its own whatever is given."""
    return isinstance(network, EnsembleNetwork) and any(m.prompt or reads_apart(m.network) for m in network.members)


class EnsembleEncoders:
    """The encoders of all members that have some: each reads its own sources."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    @property
    def fed(self) -> set[str]:
        """The inputs and states that an encoder feeds."""
        return {
            m.input(name) for m in self._members if m.network.encoders is not None for name in m.network.encoders.fed
        }

    @property
    def sources(self) -> set[str]:
        """The inputs of all encoders that no encoder feeds."""
        return {
            m.input(name)
            for m in self._members
            if m.network.encoders is not None
            for name in m.network.encoders.sources
        }

    def run(self, sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Array]]:
        """Return the values that encoders feed, for each source."""
        found: list[dict[str, Array]] = [{} for _ in sources]
        for m in self._members:
            assert m.network.encoders is not None
            for own, given in zip(
                found, m.network.encoders.run([under(m.name, source) for source in sources]), strict=True
            ):
                own.update({m.full(name): value for name, value in given.items()})
        return found


def _contract(members: Sequence[Member]) -> Contract:
    """Return one contract with the inputs and states of all members, and what all of them allow."""
    contracts = [m.network.contract for m in members]
    own = [m for m in members if not m.reads]
    longest = [c.longest for c in contracts if c.longest is not None]
    longest_run = [c.longest_run for c in contracts if c.longest_run is not None]
    return Contract(
        token=contracts[0].token,
        logits=Logits("logits", "BV", contracts[0].logits.vocab_size),
        states=tuple(
            replace(
                s, input=m.full(s.input), output=m.full(s.output), width_of=m.input(s.width_of) if s.width_of else ""
            )
            for m in members
            for s in m.network.contract.states
        ),
        auxiliary_inputs=tuple(_renamed(m, aux) for m in own for aux in m.network.contract.all_auxiliary_inputs),
        sequence=all(c.sequence for c in contracts),
        pads=all(c.pads or not any(None in aux.sizes for aux in c.contexts) for c in contracts),
        longest=min(longest, default=None),
        longest_run=min(longest_run, default=None),
    )


def under(member: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return those of the values that belong to a member, by its own names."""
    start = f"{member}."
    return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}


def _renamed(member: Member, aux: AuxiliaryInput) -> AuxiliaryInput:
    return replace(aux, name=member.input(aux.name), source=member.input(aux.source) if aux.source else "")
