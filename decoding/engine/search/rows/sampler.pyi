from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from decoding.engine.request import EngineRequest, FinishedSequence
from decoding.engine.search.rows.choices import RowChoices
from decoding.engine.search.rows.outputs import RowOutputs
from decoding.model.graph.types import Array
from decoding.results import FinishReason
from decoding.tokenizers import Tokenizer

_Ids = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]

class RowSampler:
    status: npt.NDArray[np.uint8]
    sequences: npt.NDArray[np.uint64]
    limits: _Ids
    requests: list[EngineRequest]
    choices: RowChoices
    outputs: RowOutputs
    failed: int | None
    needs_python: bool
    has_constraints: bool
    def __init__(
        self,
        logits: _Floats,
        tokens: _Ids,
        *,
        vocab_size: int,
        ids: _Ids | None,
        normalizers: npt.NDArray[np.float64] | None,
        tokenizer: Tokenizer | None,
        max_new_tokens: int,
        teacher_ratio: float | None,
        drawn: bool,
    ) -> None: ...
    def admit(self, slots: _Ids, sequences: Sequence[int], requests: Sequence[EngineRequest]) -> None: ...
    def advance(self, size: int) -> int: ...
    def forced(self, size: int, most: int) -> _Ids | None: ...
    def take_run(self, size: int, run: _Ids, logits: _Floats) -> int: ...
    def chosen(
        self, size: int
    ) -> Iterator[tuple[EngineRequest, int, int, float, FinishReason | None, tuple[_Ids, _Floats] | None]]: ...
    def finished(self, size: int) -> _Ids: ...
    def running(self, size: int) -> _Ids: ...
    def ended_by_eos(self, slot: int) -> bool: ...
    def drop(self, slot: int) -> None: ...
    def take(self, slot: int, source_length: int | None, state: Mapping[str, Array] | None) -> FinishedSequence: ...
    def keep(self, slots: _Ids) -> None: ...
