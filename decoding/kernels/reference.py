"""The specification of the kernels, in plain NumPy float64: easy to read, and slow.

Names, arguments and results are those of decoding.kernels; the dtypes here are float64 and int64. Rows are
handled one by one. Arguments are not checked here; decoding.kernels does that.
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


def uniform(seed: ArrayLike, rows: ArrayLike, step: ArrayLike, n: int, purpose: str = "draw") -> Floats:
    """[rows, n] uniform numbers in [0, 1): those of NumPy's Philox, keyed by (seed, row)."""
    rows = np.atleast_1d(np.asarray(rows, np.uint64))
    steps = np.broadcast_to(np.asarray(step, np.uint64), rows.shape)
    seeds = np.broadcast_to(np.asarray(seed, np.uint64), rows.shape)
    out = np.empty((len(rows), n))
    for i, (own, row, at) in enumerate(zip(seeds, rows, steps, strict=True)):
        counter = np.array([0, at, PURPOSES[purpose], 0], np.uint64)
        bits = np.random.Philox(key=np.array([own, row], np.uint64), counter=counter)
        out[i] = np.random.Generator(bits).random(n)
    return out


def normal(seed: ArrayLike, rows: ArrayLike, step: ArrayLike, n: int, purpose: str = "latent") -> Floats:
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
    result: Floats = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """exp(logits / temperature), normalised over the last axis."""
    result: Floats = np.exp(log_softmax(logits, temperature))
    return result


def temper(probs: ArrayLike, temperature: float) -> Floats:
    """Power 1 / temperature of each probability, normalised over the last axis."""
    p = np.asarray(probs, np.float64)
    p = p / p.max(axis=-1, keepdims=True)
    p = p ** (1 / temperature)
    result: Floats = p / p.sum(axis=-1, keepdims=True)
    return result


def combine(logits: Sequence[ArrayLike], weights: Sequence[float], how: str) -> Floats:
    """Scores [rows, V] of several models together, from the logits of each."""
    counted = [
        (np.asarray(values, np.float64), weight) for values, weight in zip(logits, weights, strict=True) if weight
    ]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if how == "probs":
            total = sum(weights)
            mean: Floats = np.logaddexp.reduce(
                [_distribution(values) + np.log(weight / total) for values, weight in counted]
            )
            return mean
        parts = [values if how == "logits" else _distribution(values) for values, _ in counted]
        forbidden = np.any([values == -np.inf for values in parts], axis=0)
        scores = sum(weight * values for values, (_, weight) in zip(parts, counted, strict=True))
    wrong = np.any([np.isnan(values) | (values == np.inf) for values in parts], axis=0)
    return np.where(wrong, np.nan, np.where(forbidden, -np.inf, scores))


def _distribution(logits: Floats) -> Floats:
    """Log-probabilities; a row that forbids every token stays so, and one with a NaN or +inf is all NaN."""
    return np.where((logits == -np.inf).all(axis=-1, keepdims=True), logits, log_softmax(logits))


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
    last = min(int(np.sum(np.cumsum(p[order]) < typical_p)), int(np.count_nonzero(p)) - 1)
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
    seed: ArrayLike,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
    **filters: Any,
) -> tuple[Ids, Floats]:
    """One token a row, and its log-probability under the logits as given."""
    logits = np.asarray(logits, np.float64)
    u = uniform(seed, np.arange(len(logits)) if rows is None else rows, step, 1)[:, 0]
    t = np.broadcast_to(np.asarray(temperature, np.float64), len(logits))
    own = {name: np.broadcast_to(value, len(logits)) for name, value in filters.items()}
    tokens = [
        _choose(filtered(x, t[i], **{name: values[i] for name, values in own.items()}), u[i])
        for i, x in enumerate(logits)
    ]
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
    seed: ArrayLike,
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


def top_n(
    logits: ArrayLike, n: int, *, seed: ArrayLike, rows: ArrayLike | None = None, step: ArrayLike = 0
) -> tuple[Ids, Floats]:
    """Uniformly one of the n most probable possible tokens, which stand in the order of their ids."""
    logits = np.asarray(logits, np.float64)
    u = uniform(seed, np.arange(len(logits)) if rows is None else rows, step, 1)[:, 0]
    tokens = []
    for x, at in zip(logits, u, strict=True):
        best = np.sort(_best_first(x)[: min(n, np.isfinite(x).sum())])
        tokens.append(int(best[int(at * len(best))]))
    return _with_logprobs(logits, tokens)


def gumbel_top_k(
    logits: ArrayLike,
    k: int,
    *,
    temperature: ArrayLike = 1.0,
    seed: ArrayLike,
    rows: ArrayLike | None = None,
    step: ArrayLike = 0,
    scores: ArrayLike = 0.0,
    maxima: ArrayLike = np.inf,
    **filters: Any,
) -> tuple[Ids, Floats, Floats, Floats]:
    """Draws without replacement with their perturbed log-probabilities, greatest first.

    The greatest of the perturbed values has the law of one Gumbel at the log of all mass, and its token that of a
    plain draw; what remains, likewise, but truncated at the value before (Maddison et al. 2014).
    """
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(logits)) if rows is None else rows
    u = uniform(seed, rows, step, 2 * k, "gumbel")
    t, before, ceiling = (
        np.broadcast_to(np.asarray(a, np.float64), len(logits)) for a in (temperature, scores, maxima)
    )
    tokens = np.full((len(logits), k), -1, np.int64)
    perturbed, out_scores, logprobs = (np.full((len(logits), k), -np.inf) for _ in range(3))
    for i, x in enumerate(logits):
        p = filtered(x, t[i], **filters)
        weights, value = p.copy(), ceiling[i]
        for j in range(min(k, int(np.count_nonzero(p)))):
            token = _choose(weights, u[i, 2 * j])
            if j > 0 or np.isinf(ceiling[i]):
                location = before[i] + np.log(weights.sum())
                truncation = np.exp(location - value) if j > 0 else 0.0
                value = location - np.log(truncation - np.log1p(-u[i, 2 * j + 1]))
            tokens[i, j], perturbed[i, j], weights[token] = token, value, 0.0
            out_scores[i, j] = before[i] + np.log(p[token])
            logprobs[i, j] = log_softmax(x)[token]
    return tokens, perturbed, out_scores, logprobs


# ---- the best, and beam search -------------------------------------------------------------------


def top_k(logits: ArrayLike, k: int) -> tuple[Floats, Ids]:
    """The k greatest values of each row, sorted; ties to the lowest index."""
    values = np.asarray(logits, np.float64)
    ids = np.array([_best_first(row)[:k] for row in values], np.int64).reshape(len(values), k)
    return np.take_along_axis(values, ids, 1), ids


def top_logprobs(logits: ArrayLike, k: int) -> tuple[Floats, Ids]:
    """The k greatest log-probabilities of each row, sorted."""
    ids = top_k(logits, k)[1]
    return np.take_along_axis(log_softmax(logits), ids, 1), ids


def token_logprobs(logits: ArrayLike, tokens: ArrayLike) -> Floats:
    """Log-probabilities of one given token a row."""
    return _with_logprobs(np.asarray(logits, np.float64), [int(token) for token in np.asarray(tokens)])[1]


def beam_prune(
    logits: ArrayLike,
    scores: ArrayLike,
    num_beams: int,
    *,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    eos_token_id: Sequence[int] = (),
    normalize: bool = True,
) -> tuple[Floats, Ids, Ids]:
    """The 2 * num_beams best continuations of every prompt; groups of beams choose one after the other."""
    logits, scores = np.asarray(logits, np.float64), np.asarray(scores, np.float64)
    prompts, beams, width = logits.shape
    in_group, room = beams // groups, 2 * num_beams // groups
    out = np.full((prompts, 2 * num_beams), -np.inf)
    parents, tokens = (np.full((prompts, 2 * num_beams), -1, np.int64) for _ in range(2))
    for p in range(prompts):
        chosen = np.zeros(width)
        for g in range(groups):
            live = slice(g * in_group, (g + 1) * in_group)
            dead = np.isneginf(scores[p, live])
            x = np.where(dead[:, None], 0.0, logits[p, live])
            total = (log_softmax(x) if normalize else x) - diversity_penalty * chosen + scores[p, live][:, None]
            flat = _best_first(total.ravel())[:room]
            flat = flat[total.ravel()[flat] > -np.inf]
            at = slice(g * room, g * room + len(flat))
            out[p, at], parents[p, at], tokens[p, at] = total.ravel()[flat], g * in_group + flat // width, flat % width
            going_on = [token for token in tokens[p, at] if token not in eos_token_id][: num_beams // groups]
            np.add.at(chosen, going_on, 1)
    return out, parents, tokens


def gather_rows(array: ArrayLike, index: ArrayLike, axis: int = 0) -> NDArray[Any]:
    """The rows of one axis in a new order."""
    return np.take(np.asarray(array), np.asarray(index), axis=axis)


# ---- processors: they edit [B, V] in place; a history is one sequence of ids per row ---------------

Histories = Sequence[Sequence[int]]


def repetition_penalty(logits: Floats, history: Histories, penalty: float) -> None:
    """Once a distinct token: negative logits multiplied, others divided."""
    for x, ids in zip(logits, history, strict=True):
        for token in set(ids):
            x[token] = x[token] * penalty if x[token] < 0 else x[token] / penalty


def presence_penalty(logits: Floats, history: Histories, penalty: float) -> None:
    """Less `penalty` for every token that occurs."""
    for x, ids in zip(logits, history, strict=True):
        for token in set(ids):
            x[token] -= penalty


def frequency_penalty(logits: Floats, history: Histories, penalty: float) -> None:
    """Less `penalty` for every occurrence of a token."""
    for x, ids in zip(logits, history, strict=True):
        for token in ids:
            x[token] -= penalty


def no_repeat_ngram(logits: Floats, history: Histories, n: int) -> None:
    """What followed the last n - 1 ids earlier is forbidden."""
    for x, ids in zip(logits, history, strict=True):
        suffix = list(ids[len(ids) - n + 1 :])
        for start in range(len(ids) - n + 1):
            if list(ids[start : start + n - 1]) == suffix:
                x[ids[start + n - 1]] = -np.inf


def logit_bias(logits: Floats, ids: Sequence[int], bias: ArrayLike) -> None:
    """Adds a bias to the logits of given tokens."""
    for token, value in zip(ids, np.broadcast_to(bias, len(ids)), strict=True):
        logits[:, token] += value


def suppress_tokens(logits: Floats, ids: Sequence[int]) -> None:
    """Forbids the given tokens."""
    logits[:, np.asarray(ids, np.int64)] = -np.inf


def allow_tokens(logits: Floats, ids: Sequence[int]) -> None:
    """Forbids all but the given tokens."""
    forbidden = np.ones(logits.shape[1], bool)
    forbidden[np.asarray(ids, np.int64)] = False
    logits[:, forbidden] = -np.inf


def allow_bits(logits: Floats, bits: NDArray[np.uint32]) -> None:
    """Forbids the tokens whose bits are 0: bit i & 31 of word i >> 5 is token i's."""
    for row, words in zip(logits, bits, strict=True):
        for token in range(len(row)):
            if not int(words[token >> 5]) >> (token & 31) & 1:
                row[token] = -np.inf
