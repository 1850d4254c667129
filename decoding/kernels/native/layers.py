"""What a `NativeNetwork` is made from: plain arrays and options, as csrc/native.h describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """A function of a layer, by the name that csrc/native.h has for it in lower case."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class NativeLayer:
    """One recurrent layer, its gates in ONNX's order: LSTM i, o, f, c; GRU z, r, h. Or a dense layer, which has no state.

    Attributes:
        input: weights [gates * hidden, inputs] of what the layer reads.
        bias: [gates * hidden], ONNX's two biases together; GRU with linear_before_reset: without that of the candidate's state.
        state: [gates * hidden, width]; of a GRU for z and r alone; None of a dense layer.
        candidate: of a GRU, [hidden, hidden], with its bias [hidden] where linear_before_reset; else None.
        peepholes: [3, hidden] for i, o and f, or None.
        projection: of an LSTM, [width, hidden], with its bias [width]: h' = (o s(c')) P' + bias; else None.
        residual: the next layer reads h' plus what this layer reads.
    """

    cell: Literal["LSTM", "GRU", "RNN", "DENSE"]
    hidden: int
    input: NDArray[Any]
    bias: NDArray[Any]
    state: NDArray[Any] | None
    activations: Sequence[Activation]
    candidate: NDArray[Any] | None = None
    candidate_bias: NDArray[Any] | None = None
    peepholes: NDArray[Any] | None = None
    clip: float = 0.0
    coupled: bool = False
    linear_before_reset: bool = False
    residual: bool = False
    projection: NDArray[Any] | None = None
    projection_bias: NDArray[Any] | None = None

    @property
    def width(self) -> int:
        """Size of what the layer gives to the next one."""
        return self.hidden if self.projection is None else len(self.projection)


@dataclass(frozen=True)
class NativeArrays:
    """A whole network: ids -> embedding -> layers -> output.

    Attributes:
        vocabulary: number of ids.
        embedding: [vocabulary, inputs of the first layer]; None: ids are one-hot vectors.
        output, output_bias: [outputs, width] and [outputs].
        contexts: for each context [rows, n] its weights [gates of the first layer, n].
    """

    vocabulary: int
    embedding: NDArray[Any] | None
    layers: Sequence[NativeLayer]
    output: NDArray[Any]
    output_bias: NDArray[Any]
    contexts: Sequence[NDArray[Any]] = field(default=())

    @property
    def multiplied(self) -> int:
        """Number of weights that a step multiplies: those of the layers and the output."""
        matrices = [(layer.input, layer.state, layer.candidate, layer.projection) for layer in self.layers]
        return self.output.size + sum(m.size for own in matrices for m in own if m is not None)
