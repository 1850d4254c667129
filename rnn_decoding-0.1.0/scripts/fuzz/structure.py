"""Files that protobuf reads and that are wrong all the same: an ONNX model with its parts changed, one to four times."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from scripts.fuzz import nodes, ports, tensors
from scripts.fuzz.case import Case, Rng, one_of

MODELS = Path(__file__).resolve().parents[2] / "tests" / "models"
_CHANGES: list[Callable[[Rng, Case], None]] = [*nodes.CHANGES, *tensors.CHANGES, *ports.CHANGES]


@cache
def seeds() -> list[bytes]:
    """The files to start from."""
    return [path.read_bytes() for path in sorted(MODELS.glob("*.onnx"))]


@cache
def large() -> list[bytes]:
    """Models with weights so large that they are kept apart from the rest, which the files are too small for."""
    from tests.helpers.build import recurrent

    kinds = (("GRU", False), ("LSTM", True), ("RNN", False))
    return [recurrent(cell, vocab=300, exposed=exposed).SerializeToString() for cell, exposed in kinds]


def mutant(seed: int, number: int) -> Case:
    """The model of one case."""
    rng = np.random.default_rng((seed, number, 1))
    start = one_of(rng, large() if rng.random() < 0.15 else seeds())
    case = Case(onnx.load_model_from_string(start), str(rng.choice(["bytes", "proto", "path"])))
    for _ in range(min(4, int(rng.geometric(0.6)))):
        change = one_of(rng, _CHANGES)
        try:
            change(rng, case)
        except (IndexError, ValueError, TypeError, StopIteration):
            continue  # nothing there to change, or protobuf does not take the value
        case.notes.append(change.__name__)
    return case
