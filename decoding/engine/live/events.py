"""Token events of running sequences."""

from __future__ import annotations

from decoding.model.graph.types import Array
from decoding.results import FinishReason, TokenEvent
from decoding.tokenizers import TextStream, Tokenizer


class Events:
    """Makes the events of sequences, each token in its turn."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, TextStream] = {}  # of sequences that run

    def of(
        self,
        prompt: int,
        output: int,
        sequence: int,
        token: int,
        logprob: float,
        reason: FinishReason | None,
        top: tuple[Array, Array] | None = None,
    ) -> TokenEvent:
        """Return the event of the next token of a sequence; with the last one all text that is left comes.

        Args:
            top: ids and log-probabilities of the best tokens at this step, where asked for.
        """
        best = None if top is None else tuple(zip(top[0].tolist(), top[1].tolist(), strict=True))
        return TokenEvent(prompt, output, token, self._piece(sequence, token, reason), logprob, reason, best)

    def _piece(self, sequence: int, token: int, reason: FinishReason | None) -> str | None:
        if self._tokenizer is None:
            return None
        if (text := self._texts.get(sequence)) is None:
            text = self._texts[sequence] = TextStream(self._tokenizer)
        piece = "" if reason == "eos" else text.push(token)
        return piece if reason is None else piece + self._texts.pop(sequence).finish()
