"""Token events of running sequences."""

from __future__ import annotations

from decoding.model.model import Model
from decoding.results import FinishReason, TokenEvent


class Events:
    """Makes the events of sequences, each token in its turn."""

    def __init__(self, model: Model) -> None:
        self._tokenizer = model.tokenizer

    def of(
        self, prompt: int, output: int, sequence: int, token: int, logprob: float, reason: FinishReason | None
    ) -> TokenEvent:
        """Return the event of the next token of a sequence."""
        shown = [] if reason == "eos" else [token]
        text = None if self._tokenizer is None else self._tokenizer.decode(shown)
        return TokenEvent(prompt, output, token, text, logprob, reason)
