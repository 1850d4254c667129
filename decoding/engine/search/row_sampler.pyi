from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
    prompts: list[_Ids]
    teachers: list[_Ids]
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
        eos: Iterable[int],
        stop: Iterable[_Ids],
        min_new_tokens: int,
        max_new_tokens: int,
        processors: Iterable[Processor],
        top_logprobs: int,
        teacher_ratio: float,
    ) -> None: ...
    def admit(
        self,
        slots: _Ids,
        sequences: Sequence[int],
        temperature: Sequence[float],
        prompts: Sequence[_Ids],
        teachers: Sequence[_Ids],
        longest: Sequence[int | None],
    ) -> None: ...
    def advance(self, size: int) -> int: ...
    def draws(self) -> npt.NDArray[np.float64]: ...
    def record_attention(self, weights: _Floats) -> None: ...
    def chosen(self, size: int) -> Iterator[tuple[int, int, float, FinishReason | None]]: ...
    def finished(self, size: int) -> _Ids: ...
    def running(self, size: int) -> _Ids: ...
    def output(self, slot: int) -> _Ids: ...
    def stop(self, slot: int) -> None: ...
    def take(
        self, slot: int
    ) -> tuple[
        int, _Ids, _Floats, float, FinishReason, tuple[_Ids, _Floats] | None, _Floats | None, _Floats | None, int | None
    ]: ...
    def keep(self, slots: _Ids) -> None: ...
