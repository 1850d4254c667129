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

    _decode_given(model, ids, sources, processors=[note], context=context, latents=latents)
    return [log_softmax(values.astype(np.float64)) for values in rows]


def attention_weights(
    model: Model, ids: Sequence[npt.NDArray[np.int64]], sources: Any = None, *, context: Any = None
) -> list[npt.NDArray[np.float32]]:
    """Return the weights over the source with which each token but the first was chosen, [tokens - 1, source] for each sequence.

    Args:
        ids, sources, context: as `next_logprobs()` takes them.
    """
    found = _decode_given(model, ids, sources, context=context, return_attention=True)
    return [hypothesis.attention for hypothesis in found]


def _decode_given(model: Model, ids: Sequence[npt.NDArray[np.int64]], sources: Any, **options: Any) -> Any:
    """Decode so that every token is that of given sequences."""
    start: list[Any] = [row[:1] for row in ids]
    prompts: dict[str, Any] = (
        {"prompts": start} if model._network.encoders is None else {"prompts": sources, "prefix": start}
    )
    return decode(
        model,
        strategy=Greedy(),
        teacher=[row[1:].tolist() for row in ids],
        teacher_ratio=1.0,
        max_new_tokens=max(map(len, ids)) - 1,
        eos_token_id=None,
        seed=0,  # both models draw the same latents
        workers=1,
        **prompts,
        **options,
    )


def log_softmax(logits: Logprobs) -> Logprobs:
    """Return the logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    normalised: Logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised
