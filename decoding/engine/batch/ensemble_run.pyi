from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decoding.kernels import NativeRun
from decoding.model.runtime.session import Binding

class EnsembleRun(NativeRun):
    def __init__(
        self,
        members: Sequence[Binding | NativeRun],  # all of them NativeRuns, as those of batches whose steps are in place
        weights: Sequence[float],
        how: Literal["logits", "logprobs", "probs"],
        tokens: NDArray[np.int64],
        feeds_own: NDArray[np.bool_],
        logits: NDArray[Any],
        *,
        threads: int,
    ) -> None: ...
