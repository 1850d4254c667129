"""What decoding returns: token events, hypotheses, and all hypotheses of a call."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from decoding.errors import whole_number
from decoding.tokenizers import Tokenizer, token_texts

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class TokenEvent:
    """One token of one running sequence, as it is made.

    Attributes:
        prompt_index: which prompt it continues.
        output_index: which of the prompt's outputs it belongs to.
        token: the id; EOS is an event too.
        text: what is known of the sequence's text with this token and was not before: empty while a character lacks some of
            its tokens, and all that is left with the last token. Joined, the texts are `Hypothesis.text`. None without a
            tokenizer.
        logprob: the model's own log-probability of the token.
        finish_reason: why the sequence ended with this token; None while it is running.
        top_logprobs: id and log-probability of each of the k best tokens at this step, best first; None unless
            `logprobs=k` was asked for.
    """

    prompt_index: int
    output_index: int
    token: int
    text: str | None
    logprob: float
    finish_reason: FinishReason | None
    top_logprobs: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True)
class KnownTexts:
    """The texts of a hypothesis without its tokenizer: of all its tokens, and of each."""

    whole: str
    of_tokens: list[str]


@dataclass(frozen=True, eq=False, repr=False)
class Hypothesis:
    """One finished output sequence.

    Attributes:
        prompt_index: which prompt it continues.
        rank: its rank among the outputs of that prompt, 0 the best.
        logprob: sum of the model's own log-probabilities (natural logarithm) of the new tokens, EOS included,
            before temperature, filters and penalties.
        score: the strategy ranked by it.
        finish_reason: "eos", "stop" or "length".
        token_logprobs: float32 array, the log-probability of each of `tokens`, and EOS's after them where
            EOS ended the sequence; their sum is `logprob`.
        ids: the new ids as an int64 array; `tokens` is the same as a list.
        top_logprobs: ids int64 and log-probabilities float32, each [steps, k], of the k best tokens at each step, best
            first; None unless `logprobs=k` was asked for.
        teacher_logprobs: float32 [steps], log-probability of the teacher's token at each step, NaN after the teacher's
            end; None without a teacher.
        attention: float32 [new tokens, source], the weights with which each token was chosen; None unless
            `return_attention=True`.
        latent: the value of the model's latent, or a dict of them where it has several; passed back as ``latents=[h.latent]`` it
            makes the same output again. One that is drawn anew at every step has a first axis of steps. None without latents.
        state: the state after the output, small arrays by name, for `Request(state=...)` and for `numpy.savez`; None unless
            `return_state=True`.
        member_logprobs: float32 [members, len(token_logprobs)], the log-probability of each token under each member of an
            ensemble alone, in the members' order; None unless `return_member_logprobs=True`.
    """

    prompt_index: int
    rank: int
    logprob: float
    score: float
    finish_reason: FinishReason
    token_logprobs: npt.NDArray[np.float32] = field(repr=False)
    ids: npt.NDArray[np.int64] = field(repr=False)
    _tokenizer: Tokenizer | None = field(repr=False, default=None)
    top_logprobs: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = field(repr=False, default=None)
    teacher_logprobs: npt.NDArray[np.float32] | None = field(repr=False, default=None)
    attention: npt.NDArray[np.float32] | None = field(repr=False, default=None)
    latent: npt.NDArray[Any] | dict[str, npt.NDArray[Any]] | None = field(repr=False, default=None)
    state: Mapping[str, npt.NDArray[Any]] | None = field(repr=False, default=None)
    member_logprobs: npt.NDArray[np.float32] | None = field(repr=False, default=None)
    _texts: KnownTexts | None = field(repr=False, default=None)  # of one that was pickled

    @property
    def tokens(self) -> list[int]:
        """The new ids, EOS excluded."""
        tokens: list[int] = self.ids.tolist()
        return tokens

    @property
    def text(self) -> str | None:
        """The new tokens as text, or None where the model has no tokenizer."""
        if self._texts is not None:
            return self._texts.whole
        return None if self._tokenizer is None else self._tokenizer.decode(self.tokens)

    @property
    def token_texts(self) -> list[str] | None:
        """What each of `tokens` adds to `text`, or None where the model has no tokenizer."""
        if self._texts is not None:
            return self._texts.of_tokens
        return None if self._tokenizer is None else token_texts(self._tokenizer, self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that `json.dumps` takes: tokens, text, scores and whatever else was requested, without the state."""
        found: dict[str, Any] = {
            "prompt_index": self.prompt_index,
            "rank": self.rank,
            "tokens": self.tokens,
            "text": self.text,
            "logprob": float(self.logprob),
            "score": float(self.score),
            "finish_reason": self.finish_reason,
            "token_logprobs": self.token_logprobs.tolist(),
        }
        if self.top_logprobs is not None:
            ids, values = self.top_logprobs
            found["top_logprobs"] = [
                dict(zip(*step, strict=True)) for step in zip(ids.tolist(), values.tolist(), strict=True)
            ]
        for name in ("teacher_logprobs", "attention", "latent", "member_logprobs"):
            if (value := getattr(self, name)) is not None:
                lists = {key: own.tolist() for key, own in value.items()} if isinstance(value, dict) else value.tolist()
                found[name] = lists
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the text instead of the tokenizer, which may be large, or hold what cannot be pickled."""
        texts = None if self._tokenizer is None else KnownTexts(self.text or "", self.token_texts or [])
        return {**self.__dict__, "_tokenizer": None, "_texts": self._texts if texts is None else texts}

    def __repr__(self) -> str:
        shown_text = "" if self.text is None else f"{_shown(self)!r}, "
        return (
            f"Hypothesis({shown_text}tokens={self.tokens if len(self.ids) <= 20 else [*self.tokens[:20], '...']}, score={self.score:.4g}, "
            f"logprob={self.logprob:.4g}, finish_reason={self.finish_reason!r}, prompt_index={self.prompt_index}, rank={self.rank})"
        )

    def _repr_html_(self) -> str:
        facts = (
            f"prompt {self.prompt_index}, rank {self.rank}: score {self.score:.3f}, "
            f"log-probability {self.logprob:.3f}, {len(self.ids)} tokens, {self.finish_reason}"
        )
        return f"<div>{facts}</div><div style='white-space:pre-wrap'>{_tokens_html(self, 1000)}</div>"

    def __str__(self) -> str:
        return str(self.tokens) if self.text is None else self.text


class Decoded(Sequence[Hypothesis]):
    """All hypotheses, ordered by prompt, the best of each prompt first."""

    def __init__(self, hypotheses: Sequence[Hypothesis]) -> None:
        self._hypotheses = list(hypotheses)

    @overload
    def __getitem__(self, index: int) -> Hypothesis: ...
    @overload
    def __getitem__(self, index: slice) -> Decoded: ...
    def __getitem__(self, index: int | slice) -> Hypothesis | Decoded:
        if isinstance(index, slice):
            return Decoded(self._hypotheses[index])
        return self._hypotheses[index]

    def __len__(self) -> int:
        return len(self._hypotheses)

    def __iter__(self) -> Iterator[Hypothesis]:
        return iter(self._hypotheses)

    @property
    def tokens(self) -> list[list[int]]:
        """New ids of every hypothesis."""
        return [h.tokens for h in self]

    @property
    def text(self) -> list[str | None]:
        """Text of every hypothesis."""
        return [h.text for h in self]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Score of every hypothesis, float64 [len(self)]."""
        return np.array([h.score for h in self], np.float64)

    def by_prompt(self) -> list[list[Hypothesis]]:
        """The hypotheses of each prompt."""
        groups: dict[int, list[Hypothesis]] = {}
        for hypothesis in self:
            groups.setdefault(hypothesis.prompt_index, []).append(hypothesis)
        return list(groups.values())

    def padded(self, fill: int) -> npt.NDArray[np.int64]:
        """New ids as one array [len(self), longest], short rows filled up with `fill`, any int64.

        Raises:
            OptionError: `fill` is no such number.
        """
        fill = whole_number("fill", fill, -(2**63), below=2**63)
        out = np.full((len(self), max((h.ids.size for h in self), default=0)), fill, np.int64)
        for row, hypothesis in zip(out, self, strict=True):
            row[: hypothesis.ids.size] = hypothesis.ids
        return out

    def __repr__(self) -> str:
        lines = [f"  {h.prompt_index}.{h.rank} {h.score:9.3f} {h.finish_reason:6} {_shown(h)!r}" for h in self[:20]]
        more = [f"  ... and {len(self) - 20} more"] if len(self) > 20 else []
        return "\n".join([f"Decoded: {len(self)} hypotheses", *lines, *more])

    def _repr_html_(self) -> str:
        shown = Decoded(self._hypotheses[:20])
        head = "".join(f"<th>{name}</th>" for name in ("prompt", "rank", "score", "finish", "output"))
        rows = "".join(_rows_html(group) for group in shown.by_prompt())
        more = len(self) - len(shown)
        foot = f"<tr><td colspan='5'>... and {more} more</td></tr>" if more else ""
        return f"<table><tr>{head}</tr>{rows}{foot}</table>"


def _shown(hypothesis: Hypothesis) -> Any:
    text = str(hypothesis)
    return text if len(text) <= 60 else text[:57] + "..."


def _rows_html(group: Sequence[Hypothesis]) -> str:
    """Table rows of one prompt's outputs, its number once before them."""
    prompt = f"<td rowspan='{len(group)}'>{group[0].prompt_index}</td>"
    cells = [
        f"<td>{h.rank}</td><td>{h.score:.3f}</td><td>{h.finish_reason}</td>"
        f"<td style='text-align:left;white-space:pre-wrap'>{_tokens_html(h, 200)}</td>"
        for h in group
    ]
    return "".join(f"<tr>{prompt if rank == 0 else ''}{row}</tr>" for rank, row in enumerate(cells))


def _tokens_html(hypothesis: Hypothesis, longest: int) -> str:
    """The first `longest` tokens, each on a ground the darker the more probable it was, and how many more there are."""
    tokens, known = hypothesis.tokens[:longest], hypothesis.token_texts
    texts = [f"{token} " for token in tokens] if known is None else known[:longest]
    spans = []
    for text, logprob in zip(texts, hypothesis.token_logprobs.tolist(), strict=False):
        probability = math.exp(logprob)
        spans.append(
            f"<span title='probability {probability:.3g}' style='background:rgba(66,133,214,{probability * 0.6:.2f})'>"
            f"{html.escape(text)}</span>"
        )
    more = [f" ... and {left} more tokens"] if (left := len(hypothesis.ids) - len(tokens)) else []
    return "".join(spans + more)
