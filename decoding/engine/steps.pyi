from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from decoding.results import FinishReason

_Ints = npt.NDArray[np.int64]

class RowSampler:
    status: npt.NDArray[np.uint8]
    sequences: npt.NDArray[np.uint64]
    lengths: _Ints
    temperature: npt.NDArray[np.float32]
    def __init__(
        self,
        logits: npt.NDArray[np.float32],
        tokens: _Ints,
        *,
        seed: int,
        greedy: bool,
        eos: Iterable[int],
        max_new_tokens: int,
    ) -> None: ...
    def admit(self, positions: _Ints, sequences: _Ints, temperature: npt.NDArray[np.float32] | None) -> None: ...
    def advance(self, size: int) -> int: ...
    def chosen(self, size: int) -> Iterator[tuple[int, int, float, FinishReason | None]]: ...
    def finished(self, size: int) -> _Ints: ...
    def running(self, size: int) -> _Ints: ...
    def take(self, position: int) -> tuple[int, _Ints, npt.NDArray[np.float32], FinishReason]: ...
    def keep(self, positions: _Ints) -> None: ...
