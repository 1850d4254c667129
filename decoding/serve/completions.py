"""`POST /v1/completions`: from the body of a request to its answer, whole or in a stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from decoding.engine.beam_trace import BeamTrace
from decoding.errors import DecodingError
from decoding.inputs.sources import source_tokens
from decoding.processors import LogitBias
from decoding.requests import Request
from decoding.results import Decoded, Hypothesis
from decoding.serve.answers import (
    Events,
    Logprobs,
    Output,
    attention_rows,
    beam_rows,
    error_event,
    events_of,
    head,
    number,
    top_texts,
    usage,
)
from decoding.serve.errors import api_error, wrong
from decoding.serve.fields import Completion, read_completion, read_json
from decoding.serve.gate import Limits, in_thread, read_body, unless_left
from decoding.serve.metrics import Metrics
from decoding.serve.models import Models, ReadPrompt, Served, check_session
from decoding.serve.scoring import prompt_scores
from decoding.serve.streams import Item, Relay, Stream
from decoding.service import Ticket


@dataclass
class Job:
    """A request that the engine has taken: a ticket for each prompt.

    Attributes:
        source_length: tokens that the encoder reads, where it reads tokens.
        trace: of the beams, where they are wanted.
        start: when the request came, in seconds.
        stream: the events of the tickets, where the answer is a stream.
    """

    served: Served
    fields: Completion
    prompts: list[ReadPrompt]
    source: Any
    source_length: int
    trace: BeamTrace | None
    start: float
    tickets: list[Ticket] = field(default_factory=list)
    stream: Stream | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens that were read."""
        return sum(len(prompt.ids) for prompt in self.prompts) + self.source_length

    def close(self) -> None:
        """Free the rows of what still runs, and keep the state of a session that has ended."""
        state = None
        for ticket in self.tickets:
            ticket.cancel()
        if self.fields.session is not None:
            if self.tickets:
                with suppress(Exception):  # the ticket's own, which whoever waits for it has too
                    state = self.tickets[0].result(0)[0].state
            self.served.sessions.end(self.fields.session, state)


class Completions:
    """The endpoint."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._relay: Relay | None = None

    async def answer(self, request: HttpRequest) -> Response | EventStream:
        """Answer a request."""
        start = time.monotonic()
        body = await read_body(request.scope, request.receive, self._limits)
        if self._relay is None or self._relay.loop is not asyncio.get_running_loop():
            self._relay = Relay()
        work = in_thread(begin, self._models, self._limits, self._relay, body, start, undo=Job.close)
        job = await unless_left(request.receive, work)
        request.state.model = job.served.name
        self._metrics.read(job.served.name, job.prompt_tokens)
        if job.stream is not None:
            return EventStream(job, job.stream, self._metrics)
        try:
            answer, tokens = await unless_left(request.receive, self._whole(job))
        finally:
            job.close()
        self._metrics.wrote(job.served.name, tokens)
        return Response(answer, media_type="application/json")

    async def _whole(self, job: Job) -> tuple[bytes, int]:
        """Return the answer with all outputs, and how many tokens these have."""
        try:
            found = [await ticket.wait() for ticket in job.tickets]
        except DecodingError as error:
            raise api_error(error) from error
        return await in_thread(_answer, job, found)


def begin(models: Models, limits: Limits, relay: Relay, body: bytes, start: float) -> Job:
    """Read a request and give it to the engine. It runs in a thread: tokenizers may take their time.

    Raises:
        ApiError: something is wrong with it.
    """
    fields = read_completion(read_json(body), limits)
    job = begin_completion(models.get(fields.model), fields, start)
    if fields.stream:
        job.stream = relay.follow(job.tickets)
    return job


def begin_completion(served: Served, fields: Completion, start: float) -> Job:
    """Give a request to the engine.

    Raises:
        ApiError: it does not fit the model.
    """
    _check_model(served, fields)
    state = None if fields.session is None else served.sessions.begin(fields.session)
    try:
        job = _read(served, fields, state, start)
        if fields.max_tokens != 0:
            _submit(job, state)
    except BaseException as error:
        if fields.session is not None:
            served.sessions.end(fields.session, None)
        if isinstance(error, Exception):
            raise api_error(error, "prompt") from error
        raise
    return job


def _submit(job: Job, state: Mapping[str, Any] | None) -> None:
    """Give every prompt to the engine, or none."""
    try:
        for prompt in job.prompts:
            job.tickets.append(job.served.engine.submit(_request(job, prompt, state)))
    except BaseException:
        for ticket in job.tickets:
            ticket.cancel()
        raise


def _check_model(served: Served, fields: Completion) -> None:
    """Refuse what the model does not have."""
    if served.reads_source and fields.source is None and fields.session is None:
        raise wrong("source", f"{served.name} has an encoder; pass its source: text, ids or an array", code="missing_field")  # fmt: skip
    if not served.reads_source and fields.source is not None:
        raise wrong("source", f"{served.name} has no encoder; give the text as prompt")
    if fields.return_attention and not served.has_attention:
        raise wrong("return_attention", f"{served.name} has no attention")
    vocabulary = served.model.vocab_size
    for processor in fields.processors:
        if isinstance(processor, LogitBias) and processor.ids.max() >= vocabulary:
            raise wrong("logit_bias", f"found the id {processor.ids.max()}; the model's go from 0 to {vocabulary - 1}")
    for stop in fields.stop:
        if not isinstance(stop, str) and max(stop) >= vocabulary:
            raise wrong("stop", f"found the id {max(stop)}; the model's go from 0 to {vocabulary - 1}")
    if fields.max_tokens is None and fields.min_tokens > served.longest:
        raise wrong(
            "min_tokens", f"found {fields.min_tokens}, more than max_tokens, by default {served.longest}; pass it too"
        )
    if (fields.logprobs or 0) > vocabulary:
        raise wrong("logprobs", f"found {fields.logprobs}; the model has {vocabulary} tokens")


def _read(served: Served, fields: Completion, state: Mapping[str, Any] | None, start: float) -> Job:
    """Return the job of a request, its prompts and its source as ids."""
    check_session(state)
    if state is not None and fields.source is not None:
        raise wrong("source", "the session has its source already; leave it out, or begin another session")
    if state is None and served.reads_source and fields.source is None:
        raise wrong("source", "a session begins with a source")
    prompts = [served.read_prompt(prompt, goes_on=state is not None) for prompt in fields.prompts]
    source, length = served.read_source(fields.source) if fields.source is not None else (None, 0)
    if fields.echo and fields.logprobs is not None and served.model.latents:
        raise wrong("echo", f"{served.name} draws latents, so a prompt has no fixed log-probabilities")
    return Job(served, fields, prompts, source, length, BeamTrace() if fields.return_beams else None, start)


def _request(job: Job, prompt: ReadPrompt, state: Mapping[str, Any] | None) -> Request:
    """Return what the engine decodes."""
    fields, served = job.fields, job.served
    ids = prompt.ids or None
    reads = {"prompt": job.source, "prefix": ids} if served.reads_source else {"prompt": ids}
    return Request(
        **reads,
        state=state,
        strategy=fields.strategy,
        max_new_tokens=served.longest if fields.max_tokens is None else fields.max_tokens,
        min_new_tokens=fields.min_tokens,
        stop=fields.stop,
        seed=fields.seed,
        processors=(*(() if job.trace is None else (job.trace,)), *fields.processors),
        logprobs=fields.logprobs or 0,
        num_return_sequences=fields.outputs,
        return_attention=fields.return_attention,
        return_state=fields.session is not None,
    )


def _outputs(job: Job) -> list[Output]:
    """Return an empty output for each choice; those of a prompt follow each other."""
    fields = job.fields
    return [
        Output(job.served, place * fields.n + index, fields.stop, fields.logprobs is not None, len(prompt.text))
        for place, prompt in enumerate(job.prompts)
        for index in range(fields.n)
    ]


def _answer(job: Job, found: Sequence[Decoded]) -> tuple[bytes, int]:
    """Return the whole answer as JSON, and the number of new tokens. It runs in a thread."""
    fields = job.fields
    tokens = sum(len(h.token_logprobs) for decoded in found for h in decoded)
    answer = {**head(job.served), "choices": choices_of(job, found), "usage": usage(job.prompt_tokens, tokens)}
    if job.trace is not None:
        answer["beams"] = beam_rows(found[0], job.trace)
    if fields.return_attention and job.source is not None:
        by_input = {name: [value] for name, value in job.source.items()}
        answer["source_tokens"] = source_tokens(job.served.model, by_input)
    return json.dumps(answer, ensure_ascii=False).encode(), tokens


def choices_of(job: Job, found: Sequence[Decoded]) -> list[dict[str, Any]]:
    """Return the choices of a whole answer.

    Args:
        found: the outputs of each prompt; none where only the prompts are wanted.
    """
    fields, outputs = job.fields, _outputs(job)
    choices: list[dict[str, Any]] = []
    for place, prompt in enumerate(job.prompts):
        echo = _echo(job, prompt) if fields.echo else None
        if not found and echo is not None:
            choices += [{**echo, "index": place * fields.n + i, "finish_reason": "length"} for i in range(fields.n)]
            continue
        for output, hypothesis in zip(outputs[place * fields.n :], _best(found[place], fields.n), strict=False):
            for event in events_of(hypothesis, bool(fields.stop) or fields.logprobs is not None):
                output.add(event)
            choice = output.choice() or {}
            if fields.return_attention:
                choice["attention"] = attention_rows(hypothesis)
            choices.append(_with_echo(choice, echo))
    return choices


def _best(decoded: Decoded, n: int) -> list[Hypothesis]:
    """Return the best outputs: of more than `n`, those whose tokens have the greatest mean log-probability, as OpenAI does."""
    if len(decoded) <= n:
        return list(decoded)
    return sorted(decoded, key=lambda h: -h.logprob / max(1, len(h.token_logprobs)))[:n]


def _echo(job: Job, prompt: ReadPrompt) -> dict[str, Any]:
    """Return the choice of a prompt, which comes before its outputs."""
    found = None
    if job.fields.logprobs is not None:
        found = _echo_logprobs(job, prompt)
    return {"text": prompt.text, "index": 0, "logprobs": found, "finish_reason": None, "token_ids": []}


def _echo_logprobs(job: Job, prompt: ReadPrompt) -> dict[str, Any]:
    """Return the log-probabilities of a prompt's tokens; the first has none where nothing comes before it."""
    texts, scores = prompt_scores(job.served, prompt.ids, job.source, job.fields.logprobs or 0)
    found, offset, first = Logprobs(), 0, len(prompt.ids) - prompt.shown
    for text, token, score in zip(texts[first:], prompt.ids[first:], scores[first:], strict=True):
        if score is None:
            found.add(text, None, None, offset)
        else:
            logprob, top = score
            found.add(text, number(logprob), top_texts(job.served, token, text, logprob, top), offset)
        offset += len(text)
    return vars(found)


def _with_echo(choice: dict[str, Any], echo: dict[str, Any] | None) -> dict[str, Any]:
    """Return a choice with the prompt before it."""
    if echo is None:
        return choice
    logprobs = choice["logprobs"]
    if logprobs is not None:
        logprobs = {name: echo["logprobs"][name] + values for name, values in logprobs.items()}
    return {**choice, "text": echo["text"] + choice["text"], "logprobs": logprobs}


class EventStream:
    """An answer in pieces, as server-sent events; an ASGI application."""

    def __init__(self, job: Job, stream: Stream, metrics: Metrics) -> None:
        self._job, self._stream, self._metrics = job, stream, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; free its rows when the client leaves."""
        try:
            await unless_left(receive, self._send(scope, receive, send))
        finally:
            self._job.close()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async for piece in self._pieces():
                if not started:  # an error before the first token has a status of its own
                    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                    started = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as error:
            answer = api_error(error)
            if not started:
                await answer.response()(scope, receive, send)
                return
            await send({"type": "http.response.body", "body": error_event(answer.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Yield the events; those that have come together are one piece."""
        job, fields, events = self._job, self._job.fields, Events(head(self._job.served))
        if fields.echo:
            for place, prompt in enumerate(job.prompts):
                echo = await in_thread(_echo, job, prompt)
                if not job.tickets:
                    echo["finish_reason"] = "length"
                indices = range(place * fields.n, (place + 1) * fields.n)
                yield b"".join(events.choice({**echo, "index": index}) for index in indices)
        outputs, times = _outputs(job), self._metrics.stream(job.served.name)
        try:
            while items := await self._stream.take():
                new = self._add(outputs, items)
                times.came(job.start, time.monotonic(), sum(event is not None for _, event in items))
                if piece := b"".join(events.choice(choice) for o in new if (choice := o.choice()) is not None):
                    yield piece
        finally:
            self._metrics.wrote(job.served.name, times.tokens)
        if fields.include_usage:
            yield events.usage(usage(job.prompt_tokens, times.tokens))
        yield b"data: [DONE]\n\n"

    def _add(self, outputs: Sequence[Output], items: Sequence[Item]) -> list[Output]:
        """Add new events to their outputs, and return these outputs."""
        new: dict[int, Output] = {}
        for place, event in items:
            if event is None:
                self._job.tickets[place].result(0)  # raises its error
            else:
                index = place * self._job.fields.n + event.output_index
                new[index] = outputs[index]
                outputs[index].add(event)
        return list(new.values())


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx passes each piece on at once
]
