import numpy as np
from numpy.typing import ArrayLike, NDArray

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def softmax(
    logits: ArrayLike, temperature: float = 1.0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def log_softmax(
    logits: ArrayLike, temperature: float = 1.0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def temper(probs: ArrayLike, temperature: float, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]: ...
def draw(
    logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    epsilon_cutoff: float = 0.0,
    eta_cutoff: float = 0.0,
    seed: int,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def greedy(logits: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def multinomial(
    probs: ArrayLike,
    num_samples: int = 1,
    *,
    replacement: bool = True,
    seed: int,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
) -> NDArray[np.int64]: ...
