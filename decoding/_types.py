"""The types of arguments that several public functions take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from decoding.constraints import Constraint
from decoding.processors import History, Processor

Ids = npt.NDArray[np.int64]
Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | None
# With an encoder: also arrays, lists of turns, or a dict of the encoder's inputs.
Sources = Prompts | Sequence[Any] | Mapping[str, Any]
Context = (
    Mapping[str, npt.ArrayLike | Sequence[npt.NDArray[Any]]] | npt.NDArray[Any] | Sequence[npt.NDArray[Any]] | None
)
Latents = Mapping[str, npt.ArrayLike | Sequence[npt.NDArray[Any]]] | npt.ArrayLike | Sequence[Any] | None
StepInputs = Callable[[History], Mapping[str, npt.NDArray[Any]]]
Processors = Sequence[Processor | Constraint]
FromModel = Literal["model"]
# The state after an output: state inputs, contexts and ids by name.
StateValues = Mapping[str, npt.NDArray[Any]]
