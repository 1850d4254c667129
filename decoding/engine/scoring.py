"""Log-probabilities of given sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoding import kernels
from decoding.engine.batch import make_batch
from decoding.engine.job import Prompt
from decoding.model.graph import Array
from decoding.model.model import Model

# Logits of one run over whole sequences, in floats (64 MiB): longer ones are read in pieces.
_LOGITS = 1 << 24


def score_sequences(model: Model, sequences: Sequence[Prompt], batch_size: int) -> list[Array]:
    """float32 log-probability of every token but the first of each sequence, given those before it."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].ids))
    scores: list[Array] = [np.zeros(0, np.float32)] * len(sequences)
    by_runs = model.contract.sequence and model.contract.window is None and model.contract.logits.layout != "BV"
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        own = [sequences[i] for i in rows]
        for i, values in zip(rows, _by_runs(model, own) if by_runs else _by_steps(model, own), strict=True):
            scores[i] = values
    return scores


def _by_runs(model: Model, prompts: Sequence[Prompt]) -> list[Array]:
    """Scores of sequences of descending length, many tokens in a run.

    Unequal sequences are read in waves, as prompts are (see prefill.py).
    """
    c = model.contract
    sequences = [p.ids for p in prompts]
    names = [c.logits.name, *(s.output for s in c.states)]
    states = [s.start(len(sequences)) for s in c.states]
    scores = [np.zeros(len(s) - 1, np.float32) for s in sequences]
    read, longest = 0, len(sequences[0]) - 1
    while read < longest:
        live = sum(len(s) - 1 > read for s in sequences)
        piece = max(1, _LOGITS // (live * c.logits.vocab_size))
        end = min(len(sequences[live - 1]) - 1, read + piece)
        ids = np.stack([s[read : end + 1] for s in sequences[:live]])
        context = {name: np.stack([p.context[name] for p in prompts[:live]]) for name in prompts[0].context}
        feeds = c.feeds(ids[:, :-1], read, context)
        cut = [
            np.ascontiguousarray(v.take(range(live), axis=s.batch_axis)) for s, v in zip(c.states, states, strict=True)
        ]
        feeds |= {s.input: v for s, v in zip(c.states, cut, strict=True)}
        logits, *states = model.session.run(feeds, names)
        flat = np.ascontiguousarray(c.logits.arrange(logits)).reshape(-1, c.logits.vocab_size)
        values = kernels.token_logprobs(flat, ids[:, 1:].ravel()).reshape(live, -1)
        for row in range(live):
            scores[row][read:end] = values[row]
        read = end
    return scores


def _by_steps(model: Model, prompts: Sequence[Prompt]) -> list[Array]:
    """Scores of sequences of descending length, a token at a time."""
    sequences = [p.ids for p in prompts]
    batch = make_batch(model, len(sequences))
    batch.size = len(sequences)
    starts = [s.start(len(sequences)) for s in model.contract.states]
    places = np.arange(batch.size)
    batch.put(places, starts, places, prompts, np.zeros_like(places))
    scores = [np.zeros(len(s) - 1, np.float32) for s in sequences]
    for t in range(len(sequences[0]) - 1):
        live = sum(len(s) - 1 > t for s in sequences)
        if live < batch.size:
            batch.keep(np.arange(live))
        batch.step()
        after = np.array([s[t + 1] for s in sequences[:live]])
        values = kernels.token_logprobs(batch.logits[:live], after)
        for row in range(live):
            scores[row][t] = values[row]
        batch.tokens[:live] = after
    return scores
