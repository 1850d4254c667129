"""The native step again, in plain NumPy: the specification of csrc/native.h, meant to be read, and slow.

Arrays are float64 and layers are ONNX's. Only the rounding to int8 is computed in float32, as in the kernels, so that
each number becomes the same integer in both. Sums of integers are exact in either precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

# ---- linear layers -------------------------------------------------------------------------------


def int8_weights(weights: NDArray[np.float32], largest: int = 63) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights [outputs, inputs] as int8 from -largest to largest, and a float32 scale [outputs].

    The scale is the greatest magnitude of the output's weights divided by `largest`; 1 where all are 0.
    """
    weights = np.asarray(weights, np.float32)
    scale = np.abs(weights).max(axis=1, initial=0) / np.float32(largest)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.rint(weights / scale[:, None]).clip(-largest, largest).astype(np.int8), scale


def int8_inputs(x: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows [rows, inputs] as int8 from -127 to 127, and a float32 scale [rows]; a row of zeros stays zeros."""
    rows = np.asarray(x, np.float32)
    greatest = (np.abs(rows).max(axis=1, initial=0) + np.float32(1e-30)).astype(np.float32)
    numbers = np.rint(rows * (np.float32(127) / greatest)[:, None])
    return numbers.astype(np.int8), greatest / np.float32(127)


@dataclass(frozen=True)
class Linear:
    """``x @ weights.T + bias``, in float or (with `int8`) in whole numbers.

    Attributes:
        weights: [outputs, inputs].
        bias: [outputs], or None for zeros.
        largest: of the int8 weights.
    """

    weights: Floats
    bias: Floats | None = None
    int8: bool = False
    largest: int = 63

    def __call__(self, x: Floats) -> Floats:
        """[rows, outputs] from [rows, inputs]."""
        bias = np.zeros(len(self.weights)) if self.bias is None else np.asarray(self.bias, np.float64)
        if not self.int8:
            return np.asarray(x, np.float64) @ np.asarray(self.weights, np.float64).T + bias
        w, w_scale = int8_weights(np.asarray(self.weights, np.float32), self.largest)
        q, q_scale = int8_inputs(x)
        whole = q.astype(np.int64) @ w.astype(np.int64).T
        result: Floats = whole * (q_scale.astype(np.float64)[:, None] * w_scale.astype(np.float64)) + bias
        return result


# ---- activations ---------------------------------------------------------------------------------


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


# By the names of csrc/native.h's dec_activation; each takes x, alpha and beta.
ACTIVATIONS: dict[str, Callable[[Floats, float, float], Floats]] = {
    "sigmoid": lambda x, alpha, beta: sigmoid(x),
    "tanh": lambda x, alpha, beta: np.tanh(x),
    "relu": lambda x, alpha, beta: np.maximum(x, 0),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "hard_sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "leaky_relu": lambda x, alpha, beta: np.where(x < 0, alpha * x, x),
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "softsign": lambda x, alpha, beta: x / (1 + np.abs(x)),
}

# ---- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One layer in ONNX's order of gates: LSTM i, o, f, c; GRU z, r, h.

    Attributes:
        cell: "LSTM", "GRU" or "RNN".
        input: of all gates, with the sum of ONNX's two biases (GRU with linear_before_reset: Rb of h is the candidate's).
        state: of all gates; of a GRU, of z and r; None of a dense layer. Its bias is not added.
        candidate: of a GRU's h; its bias counts with linear_before_reset alone.
        projection: of an LSTM's h, or None.
        peepholes: [3, hidden] for i, o and f, or None.
        clip: bounds what enters gates and candidate, after the peepholes; 0 for none.
        coupled: f = 1 - i.
        residual: the next layer gets h plus this layer's input.
        activations: of the gates, the candidate, and (LSTM) of what shows c; an RNN has the first.
    """

    cell: str
    hidden: int
    input: Linear
    state: Linear | None = None
    candidate: Linear | None = None
    projection: Linear | None = None
    peepholes: Floats | None = None
    clip: float = 0.0
    coupled: bool = False
    linear_before_reset: bool = False
    residual: bool = False
    activations: Sequence[str] = ("sigmoid", "tanh", "tanh")
    alpha: Sequence[float] = (0.0, 0.0, 0.0)
    beta: Sequence[float] = (0.0, 0.0, 0.0)

    def activate(self, index: int, x: Floats) -> Floats:
        """The index-th function; the clip is not for what shows c."""
        if self.clip and index < 2:
            x = np.clip(x, -self.clip, self.clip)
        return ACTIVATIONS[self.activations[index]](x, self.alpha[index], self.beta[index])

    def from_state(self, h: Floats) -> Floats:
        """The state's part of the gates: the product without a bias."""
        assert self.state is not None
        return Linear(self.state.weights, None, self.state.int8, self.state.largest)(h)


def lstm(layer: Layer, from_input: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
    """H' and c' [rows, ...] from the input's part of the gates and the states."""
    i, o, f, g = np.split(from_input + layer.from_state(h), 4, axis=1)
    p_i, p_o, p_f = np.zeros((3, layer.hidden)) if layer.peepholes is None else layer.peepholes
    i = layer.activate(0, i + p_i * c)
    f = 1 - i if layer.coupled else layer.activate(0, f + p_f * c)
    c = f * c + i * layer.activate(1, g)
    h = layer.activate(0, o + p_o * c) * layer.activate(2, c)
    return (h if layer.projection is None else layer.projection(h)), c


def gru(layer: Layer, from_input: Floats, h: Floats) -> Floats:
    """H' = n + z (h - n)."""
    assert layer.candidate is not None
    x_z, x_r, x_n = np.split(from_input, 3, axis=1)
    s_z, s_r = np.split(layer.from_state(h), 2, axis=1)
    z, r = layer.activate(0, x_z + s_z), layer.activate(0, x_r + s_r)
    if layer.linear_before_reset:
        n = x_n + r * layer.candidate(h)
    else:
        n = x_n + Linear(layer.candidate.weights, None, layer.candidate.int8, layer.candidate.largest)(r * h)
    n = layer.activate(1, n)
    return n + z * (h - n)


def rnn(layer: Layer, from_input: Floats, h: Floats) -> Floats:
    """H' = f(x + h R)."""
    return layer.activate(0, from_input + layer.from_state(h))


# ---- networks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """Ids to what the output product takes. The first layer's input product of a table is in float, whatever `int8` says.

    Attributes:
        embedding: [vocabulary, width].
        layers: from the first to the last.
        output: gives the logits.
        table: the first layer's input product is looked up in a table that was computed in float.
    """

    embedding: Floats
    layers: Sequence[Layer]
    output: Linear
    table: bool = True

    def read(
        self, tokens: Ids, h: list[Floats], c: list[Floats], context: Floats | None = None
    ) -> tuple[Floats, list[Floats], list[Floats]]:
        """Top [rows, time, width] and the states of each layer after tokens [rows, time]."""
        h, c = list(h), list(c)
        tops = []
        for ids in np.asarray(tokens).T:
            x: Floats = np.asarray(self.embedding, np.float64)[ids]
            for i, layer in enumerate(self.layers):
                entry = layer.input
                gates = Linear(entry.weights, entry.bias)(x) if i == 0 and self.table else entry(x)
                if i == 0 and context is not None:
                    gates = gates + context
                if layer.cell == "DENSE":
                    h[i] = layer.activate(0, gates)
                elif layer.cell == "LSTM":
                    h[i], c[i] = lstm(layer, gates, h[i], c[i])
                else:
                    h[i] = (gru if layer.cell == "GRU" else rnn)(layer, gates, h[i])
                x = h[i] + x if layer.residual else h[i]
            tops.append(x)
        return np.stack(tops, axis=1), h, c
