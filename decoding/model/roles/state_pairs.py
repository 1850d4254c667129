"""Pairing state inputs with the outputs that give their next values, on evidence of four kinds."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from decoding.errors import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, VIEW_OPS, Port, listing

# Operators through which a state is carried over to its next value: c' = f*c + i*g, h' = (1-z)*n + z*h, s' = w*s + k*v.
_CARRY_OPS = VIEW_OPS | {"Add", "Sub", "Mul", "Where", "Sum", "ScatterND", "ScatterElements", "Clip"}
# What exporters and people put around the name of a state to say on which side of the step it is.
_SIDE = re.compile(
    r"(?:^|[_./:]|(?<=[a-z]))(?:in|out|input|output|next|new|prev|previous|past|present|initial|init|final|last|n|0|1)(?=$|[_./:])",
    re.I,
)

Pairs = dict[str, str]


def pair_states(graph: Graph, ins: Sequence[Port], outs: Sequence[Port], notes: list[str]) -> Pairs:
    """Which of `outs` is the next value of which of `ins`. Inputs that no output answers are left out.

    Raises:
        ModelError: several outputs could each be the next value of an input, and nothing tells which.
    """
    pairs: Pairs = {}
    _pair_equal(
        ins,
        outs,
        lambda port: _recurrent_slots(graph, port.name),
        "they enter and leave the same recurrent layer",
        pairs,
        notes,
    )
    _pair_equal(ins, outs, lambda port: _stem(port.name), "their names", pairs, notes)
    reach = {
        a.name: [b for b in outs if _alike(a, b) and b.name in graph.descendants(a.name)]
        for a in ins
        if not _varies_twice(a)
    }
    carry = {a: [b for b in bs if b.name in _carried(graph, a)] for a, bs in reach.items()}
    _pair_forced(carry, "it is carried over by sums and products", pairs, notes, both_ways=True)
    _pair_forced(reach, "the only way to give each state an output that depends on it", pairs, notes, both_ways=False)
    for a in ins:
        left = [b for b in reach.get(a.name, ()) if b.name not in pairs.values()]
        if a.name not in pairs and left:
            raise ModelError(
                f"{graph.name}: ambiguous: the next value of the input {a} could be any of {listing(left)}; pass roles={{'state': {{input: output, ...}}}}"
            )
    return pairs


def shown_slots(graph: Graph, name: str) -> bool:
    """Does the output show a recurrent layer's last state?"""
    return bool(_recurrent_slots(graph, name))


def _pair_equal(
    ins: Sequence[Port],
    outs: Sequence[Port],
    key: Callable[[Port], Hashable],
    evidence: str,
    pairs: Pairs,
    notes: list[str],
) -> None:
    """Pair an input with an output of the same key, where each is the only one with it."""
    keys = {p.name: key(p) for p in (*ins, *outs)}
    for a in ins:
        rivals = [b for b in ins if keys[b.name] == keys[a.name]]
        same = [b for b in outs if keys[b.name] == keys[a.name] and _alike(a, b) and b.name not in pairs.values()]
        if keys[a.name] and a.name not in pairs and len(rivals) == len(same) == 1:
            pairs[a.name] = same[0].name
            notes.append(f"state {a.name} -> {same[0].name}: {evidence}")


def _pair_forced(
    edges: Mapping[str, Sequence[Port]], evidence: str, pairs: Pairs, notes: list[str], *, both_ways: bool
) -> None:
    """Pair what leaves no choice, again and again, since each pair takes choices from the others.

    With `both_ways` an input and an output must be each other's only choice; without, either's being the only one
    is enough (which finds the layers of a stack: the last one's state reaches only its own output).
    """
    found = True
    while found:
        found = False
        free = {a: [b.name for b in bs if b.name not in pairs.values()] for a, bs in edges.items() if a not in pairs}
        for a, bs in free.items():
            for b in bs:
                only_output, only_input = len(bs) == 1, sum(b in other for other in free.values()) == 1
                if (only_output and only_input) or (not both_ways and (only_output or only_input)):
                    pairs[a] = b
                    notes.append(f"state {a} -> {b}: {evidence}")
                    found = True
                    break
            if found:
                break


def _carried(graph: Graph, name: str) -> set[str]:
    """What is computed from a tensor by sums, products and views alone."""
    return _walk(
        [name], lambda tensor: (o for node in graph.consumers(tensor) if node.op in _CARRY_OPS for o in node.outputs)
    )


def _recurrent_slots(graph: Graph, name: str) -> frozenset[tuple[str, str]]:
    """The recurrent layers, and which of their states, that a graph input feeds or a graph output shows."""
    found = set[tuple[str, str]]()

    def forward(tensor: str) -> Iterable[str]:
        for node in graph.consumers(tensor):
            found.update(
                (node.label, s) for s, (slot, _) in STATE_SLOTS.get(node.op, {}).items() if node.input(slot) == tensor
            )
            if _is_view(graph, node) and tensor in (node.inputs if node.op == "Concat" else node.inputs[:1]):
                yield from node.outputs

    def backward(tensor: str) -> Iterable[str]:
        node = graph.producer(tensor)
        if node is not None:
            shown = STATE_SLOTS.get(node.op, {}).items()
            found.update((node.label, s) for s, (_, slot) in shown if node.outputs[slot : slot + 1] == [tensor])
            if _is_view(graph, node):
                yield from node.inputs if node.op == "Concat" else node.inputs[:1]

    _walk([name], forward)
    if not found:
        _walk([name], backward)
    return frozenset(found)


def _is_view(graph: Graph, node: Node) -> bool:
    """Does a node only re-arrange, or pick a fixed layer, as h[0] does?"""
    return node.op in VIEW_OPS or (node.op == "Gather" and graph.constant(node.input(1)) is not None)


def _walk(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    seen, todo = set[str](), list(start)
    while todo:
        tensor = todo.pop()
        if tensor and tensor not in seen:
            seen.add(tensor)
            todo += following(tensor)
    return seen


def _stem(name: str) -> str:
    """The name without what says which side of the step it is on: h_in, h_out, new_h and past.h are all h."""
    return re.sub(r"[^a-z0-9]+", "", _SIDE.sub("", name).lower())


def _varies_twice(port: Port) -> bool:
    """Is it as long as something else than the batch, too? Then it is what an encoder gives, and no state."""
    return len({d for d in port.shape or () if isinstance(d, str)}) > 1


def _alike(a: Port, b: Port) -> bool:
    """Could these be the same state before and after a step?"""
    if a.dtype != b.dtype:
        return False
    if a.shape is None or b.shape is None:
        return True
    sizes = zip(a.shape, b.shape, strict=False)
    return len(a.shape) == len(b.shape) and all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in sizes
    )
