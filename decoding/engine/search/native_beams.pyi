from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from decoding.engine.batch.ensemble import EnsembleBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.request import RowSource
from decoding.engine.search.stopping import Stopping
from decoding.strategies import Beam

class NativeBeams:
    def __init__(
        self,
        batch: HostBatch | EnsembleBatch,
        queue: RowSource,
        stopping: Stopping,
        strategy: Beam,
        candidates: int,
        eos: Sequence[int],
        *,
        scores: NDArray[Any],
        lengths: NDArray[Any],
        limits: NDArray[Any],
        ids: NDArray[Any],
        logprobs: NDArray[Any],
    ) -> None: ...
    def take(self, requests: int) -> bool: ...
