from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decoding.kernels.native.layers import NativeArrays

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.int64]
Purpose: TypeAlias = Literal["draw", "multinomial", "gumbel", "latent", "teacher"]
Histories: TypeAlias = Sequence[Sequence[int] | NDArray[np.integer[Any]]] | NDArray[np.integer[Any]]
AnyArray = TypeVar("AnyArray", bound=NDArray[Any])

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def softmax(logits: ArrayLike, temperature: float = 1.0, out: Floats | None = None) -> Floats: ...
def log_softmax(logits: ArrayLike, temperature: float = 1.0, out: Floats | None = None) -> Floats: ...
def temper(probs: ArrayLike, temperature: float, out: Floats | None = None) -> Floats: ...
def combine(
    logits: Sequence[Floats], weights: Sequence[float], how: Literal["logits", "logprobs", "probs"], out: Floats
) -> None: ...
def draw(
    logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    top_k: ArrayLike = 0,
    top_p: ArrayLike = 1.0,
    min_p: ArrayLike = 0.0,
    typical_p: ArrayLike = 1.0,
    epsilon_cutoff: ArrayLike = 0.0,
    eta_cutoff: ArrayLike = 0.0,
    seed: ArrayLike,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
    threads: int = 1,
) -> tuple[Ids, Floats]: ...
def greedy(logits: ArrayLike) -> tuple[Ids, Floats]: ...
def multinomial(
    probs: ArrayLike,
    num_samples: int = 1,
    *,
    replacement: bool = True,
    seed: ArrayLike,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
) -> Ids: ...
def philox(key: Sequence[int] | NDArray[Any], counter: Sequence[int] | NDArray[Any], n: int) -> NDArray[np.uint64]: ...
def uniform(seed: ArrayLike, rows: ArrayLike, step: ArrayLike, n: int, purpose: Purpose = "draw") -> Doubles: ...
def normal(seed: ArrayLike, rows: ArrayLike, step: ArrayLike, n: int, purpose: Purpose = "latent") -> Doubles: ...
def top_n(
    logits: ArrayLike, n: int, *, seed: ArrayLike, rows: ArrayLike | None = None, step: ArrayLike = 0
) -> tuple[Ids, Floats]: ...
def gumbel_top_k(
    logits: ArrayLike,
    k: int,
    *,
    temperature: ArrayLike = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    epsilon_cutoff: float = 0.0,
    eta_cutoff: float = 0.0,
    seed: ArrayLike,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
    scores: ArrayLike | None = None,
    maxima: ArrayLike | None = None,
) -> tuple[Ids, Doubles, Doubles, Floats]: ...
def top_k(logits: ArrayLike, k: int) -> tuple[Floats, Ids]: ...
def top_logprobs(logits: ArrayLike, k: int) -> tuple[Floats, Ids]: ...
def token_logprobs(logits: ArrayLike, tokens: ArrayLike) -> Floats: ...
def beam_prune(
    logits: ArrayLike,
    scores: ArrayLike,
    num_beams: int,
    *,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    eos_token_id: int | Sequence[int] = (),
    normalize: bool = True,
) -> tuple[Floats, Ids, Ids]: ...
def gather_rows(array: AnyArray, index: ArrayLike, axis: int = 0, out: AnyArray | None = None) -> AnyArray: ...
def repetition_penalty(logits: Floats, history: Histories, penalty: float) -> None: ...
def presence_penalty(logits: Floats, history: Histories, penalty: float) -> None: ...
def frequency_penalty(logits: Floats, history: Histories, penalty: float) -> None: ...
def no_repeat_ngram(logits: Floats, history: Histories, n: int) -> None: ...
def logit_bias(logits: Floats, ids: ArrayLike, bias: ArrayLike) -> None: ...
def suppress_tokens(logits: Floats, ids: ArrayLike) -> None: ...
def allow_tokens(logits: Floats, ids: ArrayLike) -> None: ...
def allow_bits(logits: Floats, bits: NDArray[np.uint32]) -> None: ...

class NativeNetwork:
    def __init__(
        self, arrays: NativeArrays, *, int8: bool = False, table: bool = True, name: str = "network"
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def bind(
        self,
        tokens: Ids,
        states: Sequence[tuple[NDArray[Any] | None, NDArray[Any] | None]],
        logits: NDArray[Any] | None,
        contexts: Sequence[NDArray[Any]] = (),
    ) -> NativeRun: ...

class NativeRun:
    def run(self) -> None: ...
