"""The text of a running sequence, piece by piece: what each token adds.

A token's text can depend on its neighbours: a space before a word, a character whose bytes are several tokens. So a
few tokens are decoded together: those whose text is not all out, after the ones that were the last to be settled.
(vLLM does it so, and tokenizers' DecodeStream.) Unlike there, the pieces join to the text of the whole sequence for
ids that are no text, too:

- As long as a text ends in U+FFFD, its last 3 characters wait: they may be bytes of a character that is not whole.
- Hugging Face's ByteFallback makes U+FFFD of all bytes of a run if one of them is wrong. So a run waits for its end.
- A decoder that rewrites the whole text (Replace after Fuse) lets everything wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from decoding.tokenizers.tokenizer import HuggingFaceTokenizer, Tokenizer, Vocabulary

# The bytes of a character that may wait for its last one.
_PARTIAL = 3
# Tokens that are decoded at every step. A longer window is decoded each time that it has grown by an eighth, so that a
# sequence takes linear time, whatever its ids are.
_LONG = 64


class TextStream:
    """Turns the ids of one sequence into text, token by token, in linear time. The pieces join to the whole text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # the context, then the tokens whose text is not all out
        self._settled = 0  # the number of tokens in the context
        self._out = ""  # the text of the window that is out
        self._next = 0  # the length at which the window is decoded next

    @classmethod
    def after(cls, tokenizer: Tokenizer, ids: Sequence[int]) -> TextStream:
        """Return a stream that goes on after the ids of a text, which is not part of its pieces."""
        stream = cls(tokenizer)
        for token in ids:
            stream.push(token)
        stream._out = tokenizer.decode(stream._window)
        return stream

    def push(self, token: int, following: int | None = None) -> str:
        """Return the text that is settled with this token.

        Args:
            following: the next token, where it is known.
        """
        if isinstance(self._tokenizer, Vocabulary):
            return self._tokenizer.decode([token])
        self._window.append(token)
        if self._waits(token, following) or len(self._window) < self._next:
            return ""
        text = self._tokenizer.decode(self._window)
        settled = text if not text.endswith("\ufffd") else text[:-_PARTIAL] + text[-_PARTIAL:].rstrip("\ufffd")
        piece = settled[len(self._out) :] if settled.startswith(self._out) else ""
        self._out += piece
        cut = self._out == text and self._cut()
        self._next = len(self._window) * 9 // 8 if len(self._window) > _LONG and not cut else 0
        return piece

    def finish(self) -> str:
        """Return what is left at the end of the sequence."""
        text = self._tokenizer.decode(self._window) if self._window else ""
        left = text.removeprefix(self._out)
        self._window, self._settled, self._out, self._next = [], 0, "", 0
        return left

    def _waits(self, token: int, following: int | None) -> bool:
        """Return whether the text of a token depends on the tokens after it."""
        if not isinstance(self._tokenizer, HuggingFaceTokenizer) or not self._tokenizer.joins_next(token):
            return False
        return following is None or self._tokenizer.joins_next(following)

    def _cut(self) -> bool:
        """Keep only the tokens after the last cut, as the context of the next one; return whether they have a text.

        Without a text they are no context: the next token would be decoded as the first of all, without its space.
        """
        recent = self._window[self._settled :]
        text = self._tokenizer.decode(recent)
        if text:
            self._window, self._settled, self._out = recent, len(recent), text
        return bool(text)


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text that each id adds to the text of all; joined they are that text.

    A token's share can depend on its neighbours: a space before a word, a character whose bytes are several
    tokens (the last of them has it).
    """
    stream, ids = TextStream(tokenizer), list(ids)
    texts = [stream.push(token, following) for token, following in zip(ids, [*ids[1:], None], strict=False)]
    if texts:
        texts[-1] += stream.finish()
    return texts
