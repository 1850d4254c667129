from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decoding.kernels import NativeRun

class EnsembleRun(NativeRun):
    def __init__(
        self,
        members: Sequence[NativeRun],
        weights: Sequence[float],
        how: Literal["logits", "logprobs", "probs"],
        tokens: NDArray[np.int64],
        logits: NDArray[Any],
        *,
        threads: int,
    ) -> None: ...
