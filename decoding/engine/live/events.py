"""Token events of running sequences."""

from __future__ import annotations

from decoding.results import FinishReason, TokenEvent
from decoding.tokenizers import TextStream, Tokenizer


class Events:
    """Makes the events of sequences, each token in its turn."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, TextStream] = {}  # of sequences that run

    def of(
        self, prompt: int, output: int, sequence: int, token: int, logprob: float, reason: FinishReason | None
    ) -> TokenEvent:
        """Return the event of the next token of a sequence; with the last one all text that is left comes."""
        return TokenEvent(prompt, output, token, self._piece(sequence, token, reason), logprob, reason)

    def _piece(self, sequence: int, token: int, reason: FinishReason | None) -> str | None:
        if self._tokenizer is None:
            return None
        if (text := self._texts.get(sequence)) is None:
            text = self._texts[sequence] = TextStream(self._tokenizer)
        piece = "" if reason == "eos" else text.push(token)
        return piece if reason is None else piece + self._texts.pop(sequence).finish()
