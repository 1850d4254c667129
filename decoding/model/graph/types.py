"""Types of a graph's edges (`Port`, `Array`, `Shape`) and tables of operators: those that keep states, only re-arrange values, or round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int | str | None, ...] | None  # None: of unknown rank

# Operators that only re-arrange, copy or convert their first input.
VIEW_OPS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice",
                      "Split", "Expand", "Concat"})  # fmt: skip

# For each state of a recurrent operator: the index of the input with the initial value, and of the output with the last value.
# onnxruntime's int8 LSTM has the float one's.
_LSTM = {"h": (5, 1), "c": (6, 2)}
STATE_SLOTS = {
    "LSTM": _LSTM,
    "GRU": {"h": (5, 1)},
    "RNN": {"h": (5, 1)},
    "com.microsoft.DynamicQuantizeLSTM": _LSTM,
}

# What to say of numbers that no kernel of onnxruntime 1.31 for the CPU computes with, apart from copies and Casts.
NO_BFLOAT16 = "its numbers are bfloat16, which onnxruntime does not compute with on the CPU; export the network in float32, by model.float() before the export"

# Operators that round their input to int8.
INT8_OPS = frozenset({"DynamicQuantizeLinear", "com.microsoft.DynamicQuantizeLSTM",
                      "com.microsoft.DynamicQuantizeMatMul", "com.microsoft.MatMulIntegerToFloat"})  # fmt: skip


@dataclass(frozen=True)
class Port:
    """A graph input or output: its name, NumPy dtype and shape (None where a dimension is unknown)."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape

    @property
    def described(self) -> str:
        """Dtype and shape, as messages say them."""
        shape = "?" if self.shape is None else ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype}[{shape}]"

    def __str__(self) -> str:
        return f"{self.name} {self.described}"


def listing(ports: Iterable[Port]) -> str:
    """Ports as part of a sentence."""
    return "; ".join(str(p) for p in ports) or "none"
