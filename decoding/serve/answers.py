"""The JSON of completions: texts that end before their stop sequences, log-probabilities, usage."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from decoding.engine.beam_trace import BeamTrace, beam_steps
from decoding.results import FinishReason, Hypothesis, TokenEvent
from decoding.serve.models import Served

_REASONS: Mapping[FinishReason, str] = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass
class Logprobs:
    """The log-probabilities of some tokens, as OpenAI's API has them."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, text: str, logprob: float | None, top: dict[str, float] | None, offset: int) -> None:
        """Add a token."""
        self.tokens.append(text)
        self.token_logprobs.append(logprob)
        self.top_logprobs.append(top)
        self.text_offset.append(offset)


class Output:
    """One output of a prompt: takes its events, and returns its text and tokens as soon as they are settled.

    A text ends before its stop sequence, as OpenAI's does. So the end of a text waits as long as it may be the beginning of
    one. The tokens of a stop sequence are in `token_ids`, but have no log-probabilities.

    Args:
        index: of the choice.
        stops: texts and sequences of ids.
        logprobs: whether they are wanted.
        offset: length of the text before the output, where offsets are counted from.
    """

    def __init__(
        self, served: Served, index: int, stops: Sequence[str | tuple[int, ...]], logprobs: bool, offset: int
    ) -> None:
        self._served, self._index, self._logprobs, self._offset = served, index, logprobs, offset
        self._strings = tuple(stop for stop in stops if isinstance(stop, str))
        self._ids = tuple(stop for stop in stops if not isinstance(stop, str))
        self._waiting: list[TokenEvent] = []
        self._reason: FinishReason | None = None
        self._token_ids: list[int] = []  # that were not returned

    def add(self, event: TokenEvent) -> None:
        """Take the next event."""
        self._waiting.append(event)
        self._reason = event.finish_reason
        if event.finish_reason != "eos":
            self._token_ids.append(event.token)

    def choice(self) -> dict[str, Any] | None:
        """Return what is settled now and was not before, as a choice of an answer; None where nothing is."""
        if not self._waiting:
            return None
        if not self._strings and not self._ids:
            text, settled, self._waiting = "".join(map(self._text, self._waiting)), self._waiting, []
        else:
            text, settled = self._settled()
            if not settled and not text and self._reason is None:
                return None
        logprobs = self._scores(settled) if self._logprobs else None
        token_ids, self._token_ids = self._token_ids, []
        reason = None if self._reason is None else _REASONS[self._reason]
        return {
            "text": text,
            "index": self._index,
            "logprobs": logprobs,
            "finish_reason": reason,
            "token_ids": token_ids,
        }

    def _text(self, event: TokenEvent) -> str:
        """Return what a token adds to the text; ids split by spaces where the model has no vocabulary."""
        if event.text is not None:
            return event.text
        return "" if event.finish_reason == "eos" else f" {event.token}"

    def _settled(self) -> tuple[str, list[TokenEvent]]:
        """Return the text and the tokens that are surely before a stop sequence; the others wait on."""
        texts = [self._text(event) for event in self._waiting]
        whole = "".join(texts)
        end = self._end(whole, texts)
        if self._reason is not None:
            before = [event for event, start in zip(self._waiting, _starts(texts), strict=True) if start < end]
            waiting = before if end < len(whole) else self._waiting
            self._waiting = []
            return whole[:end], waiting
        count = 0
        for text, start in zip(texts, _starts(texts), strict=True):
            if start + len(text) > end:
                break
            count += 1
        settled, self._waiting = self._waiting[:count], self._waiting[count:]
        return "".join(texts[:count]), settled

    def _end(self, whole: str, texts: Sequence[str]) -> int:
        """Return where the part of the waiting text ends that belongs to the output: before a stop sequence, or what may be one."""
        tokens = [event.token for event in self._waiting]
        if self._reason == "stop":
            found = [whole.find(stop) for stop in self._strings]
            ends = [place for place in found if place >= 0]
            for stop in self._ids:
                if tuple(tokens[-len(stop) :]) == stop:
                    ends.append(sum(map(len, texts[: -len(stop)])))
            return min(ends, default=len(whole))
        if self._reason is not None:
            return len(whole)
        held = _beginning(whole, self._strings)
        ids = _beginning(tuple(tokens), self._ids)
        return min(len(whole) - held, sum(map(len, texts[: len(texts) - ids])))

    def _scores(self, events: Iterable[TokenEvent]) -> dict[str, Any]:
        """Return the log-probabilities of tokens. EOS is none of them: it has no text."""
        found = Logprobs()
        for event in events:
            text = self._text(event)
            if event.finish_reason != "eos":
                top = top_texts(self._served, event.token, text, event.logprob, event.top_logprobs or ())
                found.add(text, number(event.logprob), top, self._offset)
            elif found.tokens and text:  # what was left of the text comes with EOS
                found.tokens[-1] += text
            self._offset += len(text)
        return vars(found)


def _beginning(sequence: Any, stops: Sequence[Any]) -> int:
    """Return the length of the longest end of a sequence that is the beginning of a stop sequence, but not a whole one."""
    for length in range(min(len(sequence), max(map(len, stops), default=1) - 1), 0, -1):
        if any(len(stop) > length and stop[:length] == sequence[-length:] for stop in stops):
            return length
    return 0


def _starts(texts: Sequence[str]) -> Iterator[int]:
    """Yield where each of some texts starts in all of them together."""
    start = 0
    for text in texts:
        yield start
        start += len(text)


def top_texts(
    served: Served, token: int, text: str, logprob: float, top: Iterable[tuple[int, float]]
) -> dict[str, float]:
    """Return log-probabilities by the texts of the best tokens, and of the one that was chosen.

    A token whose text is empty, incomplete or another's is called "token_id:N", as vLLM does.
    """
    found: dict[str, float] = {}
    chosen = False
    for other, value in top:
        name = text if other == token else served.text_of(other)
        chosen = chosen or other == token
        found[f"token_id:{other}" if not name or "\ufffd" in name or name in found else name] = number(value)
    if not chosen:
        found[f"token_id:{token}" if not text or text in found else text] = number(logprob)
    return found


def number(value: float) -> float:
    """Return a log-probability as JSON holds it, which knows no infinity: OpenAI's least number."""
    return value if math.isfinite(value) else -9999.0


def events_of(hypothesis: Hypothesis, with_texts: bool) -> Iterator[TokenEvent]:
    """Yield the events of a finished output.

    Args:
        with_texts: the text of each token is wanted; else the first event has the text of all.
    """
    h = hypothesis
    tokens, logprobs = h.tokens, h.token_logprobs.tolist()
    texts: Sequence[str | None] = [None] * len(tokens)
    if h.text is not None:
        texts = h.token_texts or [] if with_texts else [h.text, *[""] * (len(tokens) - 1)][: len(tokens)]
    tops: list[tuple[tuple[int, float], ...] | None] = [None] * len(logprobs)
    if h.top_logprobs is not None:
        ids, values = (own.tolist() for own in h.top_logprobs)
        tops = [tuple(zip(*step, strict=True)) for step in zip(ids, values, strict=True)]
    last = len(logprobs) - 1
    for at, (token, text) in enumerate(zip(tokens, texts, strict=True)):
        reason = h.finish_reason if at == last else None
        yield TokenEvent(h.prompt_index, h.rank, token, text, logprobs[at], reason, tops[at])
    if last == len(tokens):  # EOS
        yield TokenEvent(h.prompt_index, h.rank, -1, "", logprobs[last], "eos", None)


def head(served: Served) -> dict[str, Any]:
    """Return what every answer begins with."""
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.fingerprint,
    }


def usage(prompt: int, output: int) -> dict[str, int]:
    """Return the counts of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


class Events:
    """Writes the server-sent events of an answer.

    Args:
        common: what all of them begin with; it is written once.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        self._start = f"data: {_dumps(common)[:-1]},"

    def choice(self, choice: Mapping[str, Any]) -> bytes:
        """Return an event with one choice."""
        return f'{self._start}"choices":[{_dumps(choice)}]}}\n\n'.encode()

    def usage(self, counts: Mapping[str, int]) -> bytes:
        """Return the event of the counts of tokens."""
        return f'{self._start}"choices":[],"usage":{_dumps(counts)}}}\n\n'.encode()


def error_event(body: Mapping[str, Any]) -> bytes:
    """Return the event of an error."""
    return f"data: {_dumps(body)}\n\n".encode()


# json.dumps() with options makes an encoder for each call.
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def attention_rows(hypothesis: Hypothesis) -> list[list[float]]:
    """Return the attention weights of each token over the source, to four digits."""
    assert hypothesis.attention is not None
    rows: list[list[float]] = hypothesis.attention.astype("float64").round(4).tolist()
    return rows


def beam_rows(hypotheses: Sequence[Hypothesis], trace: BeamTrace) -> list[list[dict[str, Any]]]:
    """Return how the beams grew: for each step its beginnings, the likeliest first; `parent` is a place in the step before."""
    return [
        [
            {
                "text": node.text,
                "parent": None if node.parent is None else node.parent.row,
                "logprob": number(node.logprob),
                "probability": None if math.isnan(node.probability) else node.probability,
                "best": node.best,
                "end": node.is_end,
            }
            for node in step
        ]
        for step in beam_steps(hypotheses, trace)
    ]
