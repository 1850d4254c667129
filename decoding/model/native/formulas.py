"""Recognises the formulas of LSTM, GRU and RNN that an exporter wrote as plain operators.

A state's next value is matched with each formula: by what is computed, whatever the names and the order of the operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.kernels.native.layers import Activation, NativeLayer
from decoding.model.graph.types import Array
from decoding.model.native.cell import ReadLayer
from decoding.model.native.vectors import (
    Factor,
    Function,
    NotNative,
    Pieces,
    Source,
    Sum,
    Vector,
    combined,
    inner_vectors,
    matrix,
    times,
    what,
)


@dataclass(frozen=True)
class Gate:
    """One gate before its activation.

    Attributes:
        inputs: factor and vector of each product with what is no state of the layer.
        state: the weights over h, or None.
        peephole: the factors of c, or None.
    """

    activation: Activation
    inputs: Sequence[tuple[Factor, Vector]]
    bias: Array
    state: Array | None
    peephole: Array | None
    clip: float


class Formulas:
    """Finds the layer of each state.

    Args:
        after: for each state its next value.
    """

    def __init__(self, pieces: Pieces, after: Mapping[Source, Vector]) -> None:
        self._pieces, self._after = pieces, after
        self._state_of = {value: state for state, value in after.items()}

    def layer(self, state: Source) -> ReadLayer | None:
        """The layer whose h is this state; None where it is none that is known."""
        for find in (self._lstm, self._gru, self._rnn):
            if (found := find(state, self._after[state])) is not None:
                return found
        return None

    # -- cells ---------------------------------------------------------------------------------------------

    def _lstm(self, h: Source, after: Vector) -> ReadLayer | None:
        """``c' = f c + i g; h' = o s(c')``, and a projection of it."""
        inner, projection, projection_bias = after, None, None
        if isinstance(after, Sum) and len(after.parts) == 1 and after.parts[0][0] is not None:
            projection, inner = matrix(*_sized(after.parts[0])), after.parts[0][1]
            projection_bias = after.bias
        for opens, shown in _orders(inner):
            shows, cell = _activated(shown)
            if cell not in self._state_of:
                continue
            c = self._state_of[cell]
            for f, i, g in _cell_products(c, cell):
                own = {h, c, cell}
                gates = [self._gate(v, own, h, seen) for v, seen in ((i, c), (opens, cell), (f, c), (g, None))]
                if any(gate is None for gate in gates):
                    continue
                found = [gate for gate in gates if gate is not None]
                i_, o_, f_, g_ = found
                if not i_.activation == o_.activation == f_.activation or g_.peephole is not None:
                    continue
                peepholes = None
                if any(gate.peephole is not None for gate in found):
                    zeros = np.zeros(inner.size)
                    peepholes = np.stack([zeros if p.peephole is None else p.peephole for p in (i_, o_, f_)])
                return self._read(
                    after, found, [h, c], [after, cell], cell="LSTM", hidden=inner.size, peepholes=peepholes,
                    activations=[i_.activation, g_.activation, shows or Activation("affine", 1.0)], projection=projection, projection_bias=projection_bias,
                )  # fmt: skip
        return None

    def _gru(self, h: Source, after: Vector) -> ReadLayer | None:
        """``h' = (1 - z) n + z h`` in any of its forms."""
        for z_value, n_value in _mixed(h, after):
            z = self._gate(z_value, {h}, h)
            activation, inner = _activated(n_value)
            if z is None or activation is None:
                continue
            clip, inner = _clipped(inner)
            parts, bias = self._opened(inner)
            for index, (factor, reset) in enumerate(parts):
                rest = combined([p for k, p in enumerate(parts) if k != index], bias)
                for r_value, kept in _orders(reset):
                    r = self._gate(r_value, {h}, h)
                    own = self._candidate(factor, kept, h)
                    n = self._split(rest, {h}, h)
                    if r is None or own is None or n is None or n[2] is not None or n[3] is not None:
                        continue
                    candidate, candidate_bias, whole = own
                    gates = [z, r, Gate(activation, n[0], n[1], None, None, clip)]
                    if z.activation != r.activation or not z.clip == r.clip == clip:
                        continue
                    return self._read(
                        after, gates, [h], [after], cell="GRU", hidden=h.size, activations=[z.activation, activation],
                        candidate=candidate, candidate_bias=candidate_bias, linear_before_reset=whole,
                    )  # fmt: skip
        return None

    def _candidate(self, factor: Factor, kept: Vector, h: Source) -> tuple[Array, Array | None, bool] | None:
        """Weights and bias of ``r (h R + b)``, or the weights of ``(r h) R``; and whether it is the former."""
        if kept is h and factor is not None:
            return matrix(factor, h.size), None, False
        found = self._split(kept, {h}, h)
        if factor is not None or found is None or found[0] or found[2] is None:
            return None
        return found[2], found[1], True

    def _rnn(self, h: Source, after: Vector) -> ReadLayer | None:
        """``h' = f(x + h R)``."""
        gate = self._gate(after, {h}, h)
        if gate is None or gate.state is None:
            return None
        return self._read(after, [gate], [h], [after], cell="RNN", hidden=h.size, activations=[gate.activation])

    # -- gates ---------------------------------------------------------------------------------------------

    def _gate(self, value: Vector, own: set[Vector], h: Source, c: Vector | None = None) -> Gate | None:
        """A gate by its value; None where it is more than an activation of products.

        Args:
            own: what only the layer itself reads.
            c: what the gate's peephole sees, if it may have one.
        """
        activation, inner = _activated(value)
        if activation is None:
            return None
        clip, inner = _clipped(inner)
        found = self._split(inner, own, h, c)
        return None if found is None else Gate(activation, found[0], found[1], found[2], found[3], clip)

    def _split(
        self, inner: Vector, own: set[Vector], h: Source, c: Vector | None = None
    ) -> tuple[Sequence[tuple[Factor, Vector]], Array, Array | None, Array | None] | None:
        """The products with others than the layer's own, the bias, the weights over h and the factors of c."""
        inputs, state, peephole = [], None, None
        parts, bias = self._opened(inner)
        while parts:
            factor, vector = parts.pop(0)
            if vector is h and state is None:
                state = matrix(factor, h.size)
            elif vector is c and peephole is None and (factor is None or factor.ndim == 1):
                peephole = np.ones(vector.size) if factor is None else factor
            elif not self._depends(vector, own):
                inputs.append((factor, vector))
            elif isinstance(vector, Sum) and vector not in own:
                parts = [(times(factor, f), v) for f, v in vector.parts] + parts
                bias = bias + (vector.bias if factor is None else matrix(factor, vector.size) @ vector.bias)
            else:
                return None
        return inputs, bias, state, peephole

    def _opened(self, value: Vector) -> tuple[list[tuple[Factor, Vector]], Array]:
        """The parts and the bias of a sum, with the sums in it taken apart, but for what layers give."""
        parts, bias, todo = [], np.zeros(value.size), [(None, value)]  # type: list[tuple[Factor, Vector]], Array, list[tuple[Factor, Vector]]  # fmt: skip
        while todo:
            factor, vector = todo.pop(0)
            if isinstance(vector, Sum) and vector not in self._state_of and (factor is None or factor.ndim == 1):
                todo = [(times(factor, f), v) for f, v in vector.parts] + todo
                bias = bias + (vector.bias if factor is None else factor * vector.bias)
            else:
                parts.append((factor, vector))
        return parts, bias

    def _depends(self, vector: Vector, own: set[Vector]) -> bool:
        """Whether a vector depends on what only the layer reads, other than through what layers give."""
        todo, seen = [vector], set[Vector]()
        while todo:
            v = todo.pop()
            if v in own:
                return True
            if v not in seen and v not in self._state_of:
                todo += inner_vectors(v)
            seen.add(v)
        return False

    def _read(
        self, after: Vector, gates: Sequence[Gate], states: Sequence[Source], given: Sequence[Vector], **options: Any
    ) -> ReadLayer | None:
        """The layer of these gates; None where their clips differ or one reads no state where another does."""
        if len({gate.clip for gate in gates}) > 1:
            return None
        hidden = options["hidden"]
        bases = list(dict.fromkeys(vector for gate in gates for _, vector in gate.inputs))
        if not bases:
            raise NotNative(f"{what(after.node)} does not read the token")
        blocks = [[_total(gate, base, hidden) for base in bases] for gate in gates]
        weights = np.concatenate([np.concatenate(row, axis=1) for row in blocks])
        with_state = gates[:2] if options["cell"] == "GRU" else gates
        zeros = np.zeros((hidden, states[0].size), np.float32)
        state = np.concatenate([zeros if gate.state is None else gate.state for gate in with_state])
        native = NativeLayer(
            input=weights,
            bias=np.concatenate([gate.bias for gate in gates]),
            state=state,
            clip=gates[0].clip,
            **options,
        )
        return ReadLayer(after.node, self._pieces.joined(bases), native, states, given)


def dense(vector: Function) -> ReadLayer | None:
    """The layer ``f(x W + b)`` that a vector is; None where it is something else."""
    activation, inner = _activated(vector)
    clip, inner = _clipped(inner)
    if activation is None:
        return None
    x, weights, bias = inner, np.eye(inner.size, dtype=np.float32), np.zeros(inner.size)
    if isinstance(inner, Sum) and len(inner.parts) == 1:
        x, weights, bias = inner.parts[0][1], matrix(*_sized(inner.parts[0])), inner.bias
    native = NativeLayer("DENSE", vector.size, weights, bias, None, [activation], clip=clip)
    return ReadLayer(vector.node, x, native, (), (vector,))


# -- forms ---------------------------------------------------------------------------------------------------


def _activated(value: Vector) -> tuple[Activation | None, Vector]:
    """The activation that gives a value, and what it is applied to; ``1 - sigmoid(x)`` is ``sigmoid(-x)``."""
    if isinstance(value, Function) and value.name not in ("mul", "clip"):
        return Activation(value.name, value.alpha, value.beta), value.inputs[0]
    if (hard := _hard_sigmoid(value)) is not None:
        return hard
    inner = _complement(value)
    if isinstance(inner, Function) and inner.name == "sigmoid":
        x = inner.inputs[0]
        return Activation("sigmoid"), combined([(np.full(x.size, -1.0), x)], np.zeros(x.size), value.node)
    return None, value


def _hard_sigmoid(value: Vector) -> tuple[Activation, Vector] | None:
    """The x of ``clip(x, 0, 6) / 6``, as Keras writes ``hard_sigmoid(x - 3)``, with its activation."""
    parts = value.parts if isinstance(value, Sum) and not value.bias.any() else ((None, value),)
    factor, vector = parts[0]
    if len(parts) > 1 or not isinstance(vector, Function) or vector.name != "clip" or vector.alpha != 0:
        return None
    scale = np.ones(1) if factor is None else factor
    if scale.ndim > 1 or (scale != scale[0]).any() or not np.isclose(scale[0] * vector.beta, 1, rtol=1e-6):
        return None
    return Activation("hard_sigmoid", float(scale[0]), 0.0), vector.inputs[0]


def _complement(value: Vector) -> Vector | None:
    """The x of ``1 - x``."""
    if isinstance(value, Sum) and len(value.parts) == 1 and (value.bias == 1).all():
        factor, vector = value.parts[0]
        if factor is not None and factor.ndim == 1 and (factor == -1).all():
            return vector
    return None


def _clipped(value: Vector) -> tuple[float, Vector]:
    """The bound of a clip and what is clipped; 0 where there is none."""
    if isinstance(value, Function) and value.name == "clip" and value.alpha == -value.beta and 0 < value.beta < np.inf:
        return value.beta, value.inputs[0]
    return 0.0, value


def _orders(value: Vector) -> list[tuple[Vector, Vector]]:
    """The factors of a product of two vectors, in both orders."""
    if isinstance(value, Function) and value.name == "mul":
        a, b = value.inputs
        return [(a, b), (b, a)]
    return []


def _cell_products(c: Source, cell: Vector) -> list[tuple[Vector, Vector, Vector]]:
    """Ways to read ``c' = f c + i g`` as f, i and g."""
    if not isinstance(cell, Sum) or len(cell.parts) != 2 or cell.bias.any() or any(f is not None for f, _ in cell.parts):  # fmt: skip
        return []
    (_, a), (_, b) = cell.parts
    return [
        (f, i, g) for kept, new in ((a, b), (b, a)) for f, old in _orders(kept) if old is c for i, g in _orders(new)
    ]


def _mixed(h: Source, after: Vector) -> list[tuple[Vector, Vector]]:
    """Ways to read ``h' = (1 - z) n + z h`` as z and n: as it stands, as ``n + z (h - n)`` or as ``h + u (n - h)``, u = 1 - z."""
    if not isinstance(after, Sum) or len(after.parts) != 2 or after.bias.any() or any(f is not None for f, _ in after.parts):  # fmt: skip
        return []
    (_, a), (_, b) = after.parts
    found = []
    for kept, new in ((a, b), (b, a)):
        for z, old in _orders(kept):
            if old is h:
                found += [(z, n) for u, n in _orders(new) if _complement(u) is z or _complement(z) is u]
            elif isinstance(old, Sum) and not old.bias.any() and len(old.parts) == 2:
                signs: dict[Vector, float] = {v: _sign(f) for f, v in old.parts}
                if new is not h and signs.get(h) == 1 and signs.get(new) == -1:
                    found.append((z, new))
                elif new is h and signs.get(h) == -1:
                    ((n, sign),) = [(v, s) for v, s in signs.items() if v is not h]
                    if sign == 1:
                        u = combined([(np.full(z.size, -1.0), z)], np.ones(z.size), z.node)
                        found.append((u, n))
    return found


def _sign(factor: Factor) -> float:
    if factor is None:
        return 1.0
    return -1.0 if factor.ndim == 1 and (factor == -1).all() else 0.0


def _sized(part: tuple[Factor, Vector]) -> tuple[Factor, int]:
    return part[0], part[1].size


def _total(gate: Gate, base: Vector, hidden: int) -> Array:
    """The gate's weights over one of the vectors that the layer reads."""
    total = np.zeros((hidden, base.size), np.float32)
    for factor, vector in gate.inputs:
        if vector is base:
            total = total + matrix(factor, base.size)
    return total
