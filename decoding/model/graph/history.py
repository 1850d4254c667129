"""What each pass did to a graph: the operators that it added, removed and fed otherwise, and the ports that it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

# A graph's operators by their first output, each with what it reads; its inputs and outputs, as text.
Nodes = Mapping[str, tuple[str, tuple[str, ...]]]
Ports = Mapping[str, str]


@dataclass(frozen=True)
class Snapshot:
    """The operators and ports of a graph at one time."""

    nodes: Nodes
    inputs: Ports
    outputs: Ports


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to a graph.

    Attributes:
        name: of the pass.
        added, removed, changed: kinds of operators with their numbers; `changed` ones have the same output and another kind
            or other inputs.
        ports: the inputs and outputs that came, went or changed, in words.
    """

    name: str
    added: Mapping[str, int]
    removed: Mapping[str, int]
    changed: Mapping[str, int]
    ports: tuple[str, ...]

    def __str__(self) -> str:
        """What it did, in one line; "nothing to do" where it left the graph as it was."""
        kinds = [
            f"{word} {', '.join(f'{op} {count}' for op, count in sorted(ops.items()))}"
            for word, ops in (("added", self.added), ("removed", self.removed), ("changed", self.changed))
            if ops
        ]
        return "; ".join([*kinds, *self.ports]) or "nothing to do"

    @classmethod
    def between(cls, name: str, before: Snapshot, after: Snapshot) -> PassRecord:
        """Return the differences of two snapshots."""
        old, new = before.nodes, after.nodes
        return cls(
            name,
            added=Counter(new[key][0] for key in new.keys() - old.keys()),
            removed=Counter(old[key][0] for key in old.keys() - new.keys()),
            changed=Counter(new[key][0] for key in new.keys() & old.keys() if new[key] != old[key]),
            ports=(
                *_changes("input", before.inputs, after.inputs),
                *_changes("output", before.outputs, after.outputs),
            ),
        )


def graph_pass(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that edits its first argument, a `Graph`, in place: the graph's history gets a record of it."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> R:
            with cast(Any, args[0]).recorded(name):
                return function(*args, **kwargs)

        return recorded

    return decorate


def _changes(kind: str, before: Ports, after: Ports) -> list[str]:
    lines = [f"{kind} {name} {after[name]} added" for name in after if name not in before]
    lines += [f"{kind} {name} removed" for name in before if name not in after]
    both = [name for name in after if name in before and before[name] != after[name]]
    return lines + [f"{kind} {name} {before[name]} -> {after[name]}" for name in both]
