from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from decoding.engine.request import Settings
from decoding.results import FinishReason
from decoding.tokenizers import Tokenizer

_Ids = npt.NDArray[np.int64]

FINISH_REASONS: tuple[FinishReason | None, ...]
GOES_ON: int
STOPPED: int

class Stopping:
    min_new_tokens: int
    max_new_tokens: int
    looks_for_stops: bool
    eos_count: int
    def __init__(self, settings: Settings, vocab_size: int, tokenizer: Tokenizer | None) -> None: ...
    def limit(self, own: int | None) -> int: ...
    def stops(self, output: _Ids) -> bool: ...
    def hides_eos(self, lengths: _Ids) -> bool: ...
    def hide_eos(self, logits: npt.NDArray[np.float32], lengths: _Ids) -> None: ...
    def finish_reasons(
        self, tokens: _Ids, lengths: _Ids, limits: _Ids, output: Callable[[int], _Ids]
    ) -> npt.NDArray[np.uint8]: ...
