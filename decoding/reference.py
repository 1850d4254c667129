"""The kernels again, in plain NumPy float64: their specification, meant to be read, and slow.

Names, arguments and results are those of decoding.kernels; the dtypes here are float64 and int64. Rows are
handled one by one. Arguments are taken to be right: what wrong ones raise is in decoding.kernels alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

# Each purpose has random words of its own.
PURPOSES = {"draw": 0, "multinomial": 1, "gumbel": 2, "latent": 3, "teacher": 4}


# ---- random numbers ------------------------------------------------------------------------------


def uniform(seed: int, rows: ArrayLike, step: ArrayLike, n: int, purpose: str = "draw") -> Floats:
    """[rows, n] uniform numbers in [0, 1): those of NumPy's Philox, keyed by (seed, row)."""
    rows = np.atleast_1d(np.asarray(rows, np.uint64))
    steps = np.broadcast_to(np.asarray(step, np.uint64), rows.shape)
    out = np.empty((len(rows), n))
    for i, (row, at) in enumerate(zip(rows, steps, strict=True)):
        counter = np.array([0, at, PURPOSES[purpose], 0], np.uint64)
        bits = np.random.Philox(key=np.array([seed, row], np.uint64), counter=counter)
        out[i] = np.random.Generator(bits).random(n)
    return out


def normal(seed: int, rows: ArrayLike, step: ArrayLike, n: int, purpose: str = "latent") -> Floats:
    """[rows, n] standard normal numbers: Box and Muller's pairs from consecutive uniform ones."""
    u = uniform(seed, rows, step, n + n % 2, purpose)
    radius = np.sqrt(-2 * np.log1p(-u[:, 0::2]))
    angle = 2 * np.pi * u[:, 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(len(u), -1)[:, :n]


# ---- rows in, rows out ---------------------------------------------------------------------------


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Logarithm of softmax."""
    z = np.asarray(logits, np.float64) / temperature
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """exp(logits / temperature), normalised over the last axis."""
    return np.exp(log_softmax(logits, temperature))


def temper(probs: ArrayLike, temperature: float) -> Floats:
    """Power 1 / temperature of each probability, normalised over the last axis."""
    p = np.asarray(probs, np.float64)
    p = p / p.max(axis=-1, keepdims=True)
    p = p ** (1 / temperature)
    return p / p.sum(axis=-1, keepdims=True)


# ---- filters: weights [V] in, weights [V] out with zeros for what may not be drawn ---------------


def _best_first(values: Floats) -> Ids:
    """Ids by descending value; among equals the lowest id first."""
    return np.argsort(-values, kind="stable")


def _entropy(p: Floats) -> float:
    return float(-np.sum(p * np.log(np.where(p > 0, p, 1))))


def filter_top_k(p: Floats, logits: Floats, k: int) -> Floats:
    """Exactly the k greatest logits, or as many as are possible."""
    kept = np.zeros_like(p)
    best = _best_first(logits)[:k]
    kept[best] = p[best]
    return kept


def filter_top_p(p: Floats, logits: Floats, top_p: float) -> Floats:
    """The most probable until their sum reaches top_p, with the token that crosses it."""
    order = _best_first(logits)
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros_like(p)
    kept[order[before < top_p]] = p[order[before < top_p]]
    return kept


def filter_min_p(p: Floats, min_p: float) -> Floats:
    """What has at least min_p times the greatest probability."""
    return np.where(p >= min_p * p.max(), p, 0.0)


def filter_typical(p: Floats, typical_p: float) -> Floats:
    """Those whose surprise -log p is nearest to the entropy until typical_p is reached; ties all stay."""
    with np.errstate(divide="ignore"):
        distance = np.abs(-np.log(p) - _entropy(p))
    order = np.argsort(distance, kind="stable")
    last = min(int(np.sum(np.cumsum(p[order]) < typical_p)), np.count_nonzero(p) - 1)
    return np.where(distance <= distance[order[last]], p, 0.0)


def filter_epsilon(p: Floats, epsilon: float) -> Floats:
    """What has at least probability epsilon, and the most probable anyway."""
    return np.where(p >= min(epsilon, p.max()), p, 0.0)


def filter_eta(p: Floats, eta: float) -> Floats:
    """What has at least probability min(eta, sqrt(eta) * exp(-entropy)), and the most probable anyway."""
    return filter_epsilon(p, min(eta, np.sqrt(eta) * np.exp(-_entropy(p))))


def filtered(
    logits: Floats,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    epsilon_cutoff: float = 0.0,
    eta_cutoff: float = 0.0,
) -> Floats:
    """Probabilities [V] that a row is drawn from: each filter sees what the one before left, renormalised."""
    p = softmax(logits, temperature)
    steps: list[tuple[bool, Callable[[Floats], Floats]]] = [
        (top_k > 0, lambda p: filter_top_k(p, logits, top_k)),
        (top_p < 1, lambda p: filter_top_p(p, logits, top_p)),
        (min_p > 0, lambda p: filter_min_p(p, min_p)),
        (typical_p < 1, lambda p: filter_typical(p, typical_p)),
        (epsilon_cutoff > 0, lambda p: filter_epsilon(p, epsilon_cutoff)),
        (eta_cutoff > 0, lambda p: filter_eta(p, eta_cutoff)),
    ]
    for active, step in steps:
        if active:
            p = step(p)
            p = p / p.sum()
    return p


# ---- drawing -------------------------------------------------------------------------------------


def _choose(weights: Floats, u: float) -> int:
    """The first id whose running sum of weights passes u times their sum."""
    running = np.cumsum(weights)
    chosen = int(np.searchsorted(running, u * running[-1], side="right"))
    return min(chosen, int(np.flatnonzero(weights)[-1]))


def draw(
    logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    seed: int,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
    **filters: Any,
) -> tuple[Ids, Floats]:
    """One token a row, and its log-probability under the logits as given."""
    logits = np.asarray(logits, np.float64)
    u = uniform(seed, np.arange(len(logits)) if rows is None else rows, step, 1)[:, 0]
    t = np.broadcast_to(np.asarray(temperature, np.float64), len(logits))
    tokens = [_choose(filtered(x, t[i], **filters), u[i]) for i, x in enumerate(logits)]
    return _with_logprobs(logits, tokens)


def _with_logprobs(logits: Floats, tokens: Sequence[int]) -> tuple[Ids, Floats]:
    ids = np.array(tokens, np.int64)
    return ids, np.take_along_axis(log_softmax(logits), ids[:, None], 1)[:, 0]


def greedy(logits: ArrayLike) -> tuple[Ids, Floats]:
    """The most probable token of each row; among equals the lowest id."""
    logits = np.asarray(logits, np.float64)
    return _with_logprobs(logits, list(logits.argmax(axis=1)))


def multinomial(
    probs: ArrayLike,
    num_samples: int = 1,
    *,
    replacement: bool = True,
    seed: int,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
) -> Ids:
    """num_samples tokens a row; without replacement, what was drawn weighs nothing from then on."""
    weights = np.array(probs, np.float64)
    u = uniform(seed, np.arange(len(weights)) if rows is None else rows, step, num_samples, "multinomial")
    out = np.empty((len(weights), num_samples), np.int64)
    for i, w in enumerate(weights):
        for j in range(num_samples):
            out[i, j] = _choose(w, u[i, j])
            if not replacement:
                w[out[i, j]] = 0.0
    return out
