from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.engine.request import FinishedSequence, Request
from decoding.engine.search.stopping import Stopping
from decoding.processors import Processor
from decoding.results import FinishReason

_Ids = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]

class RowSampler:
    status: npt.NDArray[np.uint8]
    sequences: npt.NDArray[np.uint64]
    lengths: _Ids
    limits: _Ids
    temperature: _Floats
    requests: list[Request]
    def __init__(
        self,
        logits: _Floats,
        tokens: _Ids,
        *,
        vocab_size: int,
        ids: _Ids | None,
        normalizers: npt.NDArray[np.float64] | None,
        seed: int,
        filters: Mapping[str, Any] | None,
        top_n: int,
        stopping: Stopping,
        processors: Iterable[Processor],
        top_logprobs: int,
        teacher_ratio: float | None,
    ) -> None: ...
    def admit(self, slots: _Ids, sequences: Sequence[int], requests: Sequence[Request]) -> None: ...
    def advance(self, size: int) -> int: ...
    def draws(self) -> npt.NDArray[np.float64]: ...
    def record_attention(self, weights: _Floats) -> None: ...
    def chosen(self, size: int) -> Iterator[tuple[int, int, float, FinishReason | None]]: ...
    def finished(self, size: int) -> _Ids: ...
    def running(self, size: int) -> _Ids: ...
    def output(self, slot: int) -> _Ids: ...
    def take(self, slot: int, siblings: int, source_length: int | None) -> FinishedSequence: ...
    def keep(self, slots: _Ids) -> None: ...
