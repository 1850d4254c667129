"""The whole next-token distributions of a model at every token of given sequences: what models are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.api import decode
from decoding.model.model import Model
from decoding.processors import History
from decoding.strategies import Greedy

Logprobs = npt.NDArray[np.float64]


def next_logprobs(
    model: Model, ids: Sequence[npt.NDArray[np.int64]], sources: Any = None, *, context: Any = None, latents: Any = None
) -> list[Logprobs]:
    """Return the log-probabilities of all tokens after each token of given sequences but the last, [tokens - 1, V] for each.

    Args:
        ids: of at least two tokens each, the first of which is BOS where the model has one.
        sources: with an encoder, what it reads for each.
        context, latents: as `decode()` takes them; latents that are not given are drawn, the same at every call.
    """
    rows = [np.zeros((len(row) - 1, model.vocab_size), np.float32) for row in ids]

    def note(history: History, logits: npt.NDArray[np.float32]) -> None:
        for request, output, values in zip(history.requests, history.outputs, logits, strict=True):
            if len(output) < len(rows[request]):
                rows[request][len(output)] = values

    start: list[Any] = [row[:1] for row in ids]
    prompts: dict[str, Any] = (
        {"prompts": start} if model._network.encoders is None else {"prompts": sources, "prefix": start}
    )
    decode(
        model,
        strategy=Greedy(),
        processors=[note],
        teacher=[row[1:].tolist() for row in ids],
        teacher_ratio=1.0,
        max_new_tokens=max(map(len, rows)),
        eos_token_id=None,
        seed=0,  # both models draw the same latents
        workers=1,
        context=context,
        latents=latents,
        **prompts,
    )
    return [log_softmax(values.astype(np.float64)) for values in rows]


def log_softmax(logits: Logprobs) -> Logprobs:
    """Return the logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    normalised: Logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised
