"""What the rest of the package sees of a graph's edges: names, dtypes, shapes, and where recurrent operators keep states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int | str | None, ...] | None  # None: of unknown rank

# Operators that only re-arrange, copy or convert what they are given through their first input.
VIEW_OPS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice",
                      "Split", "Expand", "Concat"})  # fmt: skip

# Input slots of the recurrent operators that take the initial state, and the outputs that give the last one.
# onnxruntime's int8 LSTM is laid out as the float one.
_LSTM = {"h": (5, 1), "c": (6, 2)}
STATE_SLOTS = {
    "LSTM": _LSTM,
    "GRU": {"h": (5, 1)},
    "RNN": {"h": (5, 1)},
    "com.microsoft.DynamicQuantizeLSTM": _LSTM,
}

# Operators that round what they are given to int8.
INT8_OPS = frozenset({"DynamicQuantizeLinear", "com.microsoft.DynamicQuantizeLSTM",
                      "com.microsoft.DynamicQuantizeMatMul", "com.microsoft.MatMulIntegerToFloat"})  # fmt: skip


@dataclass(frozen=True)
class Port:
    """A graph input or output: its name, NumPy dtype and shape (None where a dimension is unknown)."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype}[{shape}]"


def listing(ports: Iterable[Port]) -> str:
    """Ports in a sentence."""
    return "; ".join(str(p) for p in ports) or "none"
