"""Pairing each state input with the output that has its next value.

The evidence, strongest first: both belong to one recurrent layer; their names differ only in a word for before or
after the step (past_key_values.0.key and present.0.key, h_in and h_out); the output is computed from the
input by sums and products; no other pair is possible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from decoding.errors import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import STATE_SLOTS, VIEW_OPS, Port, listing
from decoding.model.roles.masks import named_kind

# The operators between a state and its next value: c' = f*c + i*g, h' = (1-z)*n + z*h, s' = w*s + k*v.
_CARRY_OPS = VIEW_OPS | {"Add", "Sub", "Mul", "Where", "Sum", "ScatterND", "ScatterElements", "Clip"}
# Words around the name of a state for the side of the step that it is on, the exporters' prefixes of all states included.
_SIDES = "past_key_values|present_key_values|past|present|previous|prev|initial|init|last|final|next|new|input|output|in|out|n"
_SIDE = re.compile(rf"(?:^|[_./:]|(?<=[a-z]))(?:{_SIDES})(?=$|[_./:])", re.I)
_AFTER = {"present", "final", "next", "new", "output", "out", "n"}
# So may a number be, as in h0 and h1. Elsewhere it tells layers apart.
_SIDE_OR_NUMBER = re.compile(rf"(?:^|[_./:]|(?<=[a-z]))(?:{_SIDES}|0|1)(?=$|[_./:])", re.I)

Pairs = dict[str, str]


def pair_states(graph: Graph, ins: Sequence[Port], outs: Sequence[Port], notes: list[str]) -> Pairs:
    """The output among `outs` with the next value of each state among `ins`. Inputs that are no states are left out.

    Raises:
        ModelError: several outputs could each have the next value of an input, or it is returned unchanged.
    """
    pairs = clear_pairs(graph, ins, outs, notes)
    reach = {
        a.name: [b for b in outs if _alike(a, b) and b.name in graph.descendants(a.name)]
        for a in ins
        if not varies_twice(a)
    }
    _pair_forced(reach, "the only way to give each state an output that depends on it", pairs, notes, both_ways=False)
    for a in ins:
        if a.name in pairs and _is_same(graph, a.name, pairs[a.name]):
            raise ModelError(
                f"{graph.name}: the state {a} leaves as it came, as {pairs[a.name]}: no step changes it. torch's legacy exporter loses what a network writes into a part of a "
                f"tensor (state[:, 0].copy_(...)): export with dynamo=True; if {a.name} does stay the same for a whole sequence, pass roles={{'context': [{a.name!r}]}}"
            )
        left = [b for b in reach.get(a.name, ()) if b.name not in pairs.values()]
        if a.name not in pairs and left:
            raise ModelError(
                f"{graph.name}: ambiguous: the next value of the input {a} could be any of {listing(left)}; pass roles={{'state': {{input: output, ...}}}}"
            )
    return pairs


def clear_pairs(graph: Graph, ins: Sequence[Port], outs: Sequence[Port], notes: list[str]) -> Pairs:
    """The pairs for which more speaks than that the output depends on the input: a layer, their names, sums and products."""
    pairs: Pairs = {}
    _pair_equal(
        ins,
        outs,
        lambda port: _recurrent_slots(graph, port.name),
        "they enter and leave the same recurrent layer",
        pairs,
        notes,
    )
    _pair_equal(ins, outs, lambda port: _stem(port.name, _SIDE), "their names", pairs, notes)
    _pair_equal(ins, outs, lambda port: _stem(port.name, _SIDE_OR_NUMBER), "their names", pairs, notes)
    # As wide as a source, or growing: it may also be a context, of which no output is a sum or the continuation.
    free = [a for a in ins if not varies_twice(a) or (a.dtype.kind == "f" and named_kind(a.name) is None)]
    carry = {a.name: [b for b in outs if _alike(a, b) and b.name in _carried(graph, a.name)] for a in free}
    _pair_forced(carry, "it is carried over by sums and products", pairs, notes, both_ways=True)
    return pairs


def shows_state(graph: Graph, name: str) -> bool:
    """Return whether an output is a recurrent layer's last state."""
    return bool(_recurrent_slots(graph, name))


def _pair_equal(
    ins: Sequence[Port],
    outs: Sequence[Port],
    key: Callable[[Port], Hashable],
    evidence: str,
    pairs: Pairs,
    notes: list[str],
) -> None:
    """Pair an input and an output of the same key, if no other input and no other output has it."""
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
    """Pair inputs and outputs that have no other choice, until none is left: each pair takes a choice from the others.

    Args:
        edges: for each input the outputs that it could be paired with.
        both_ways: the input and the output must each have no other choice. Without it, one of the two is enough. That pairs the
            layers of a stack, of which the last one's state reaches only its own output.
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


def _is_same(graph: Graph, name: str, output: str) -> bool:
    """Return whether an output is an input, unchanged."""
    while (node := graph.producer(output)) is not None and node.op == "Identity":
        output = node.input(0)
    return output == name


def _carried(graph: Graph, name: str) -> set[str]:
    """The tensors that are computed from a tensor by sums, products and views alone."""
    return _walk(
        [name], lambda tensor: (o for node in graph.consumers(tensor) if node.op in _CARRY_OPS for o in node.outputs)
    )


def _recurrent_slots(graph: Graph, name: str) -> frozenset[tuple[str, str]]:
    """The recurrent layers, each with the name of a state, whose initial value an input is or whose last value an output is."""
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
    """Return whether a node only re-arranges its input, or takes a fixed layer of it, as h[0] does."""
    return node.op in VIEW_OPS or (node.op == "Gather" and graph.constant(node.input(1)) is not None)


def _walk(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    seen, todo = set[str](), list(start)
    while todo:
        tensor = todo.pop()
        if tensor and tensor not in seen:
            seen.add(tensor)
            todo += following(tensor)
    return seen


def _stem(name: str, side: re.Pattern[str]) -> str:
    """The name of a state without the words for the side of the step.

    >>> [_stem(name, _SIDE) for name in ("h_in", "new_h", "past_key_values.0.key", "present.0.key")]
    ['h', 'h', '0key', '0key']

    A name of such words alone keeps the first that is not one for after the step.

    >>> [_stem(name, _SIDE) for name in ("prev", "prev_out", "new_prev", "output")]
    ['prev', 'prev', 'prev', '']
    """
    stem = re.sub(r"[^a-z0-9]+", "", side.sub("", name).lower())
    words = re.findall(r"[a-z0-9]+", name.lower())
    return stem or next((word for word in words if word not in _AFTER), "")


def varies_twice(port: Port) -> bool:
    """Return whether an input has a dynamic dimension besides the batch: then it is an encoder's output, and no state."""
    return len({d for d in port.shape or () if isinstance(d, str)}) > 1


def _alike(a: Port, b: Port) -> bool:
    """Return whether dtypes and shapes allow that these are one state, before and after a step."""
    if a.dtype != b.dtype:
        return False
    if a.shape is None or b.shape is None:
        return True
    sizes = zip(a.shape, b.shape, strict=False)
    return len(a.shape) == len(b.shape) and all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in sizes
    )
