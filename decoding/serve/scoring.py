"""Log-probabilities of given texts, and text to ids and back: `/v1/score`, `/tokenize`, `/detokenize`."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from decoding.api import decode, score
from decoding.serve.answers import number
from decoding.serve.errors import api_error, wrong
from decoding.serve.fields import Fields, read_json, read_prompts
from decoding.serve.gate import Limits, in_thread, read_body, unless_left
from decoding.serve.models import Models, Served

# One text at a time is scored, so that the engines keep their cores.
_ONE = threading.Lock()

# A token's log-probability, and the best tokens' ids and log-probabilities.
Score = tuple[float, list[tuple[int, float]]]


def prompt_scores(served: Served, ids: Sequence[int], source: Any, best: int) -> tuple[list[str], list[Score | None]]:
    """Return the text of each id, and its score after the ids before it: None for the first.

    Args:
        source: the inputs of the encoders by name, where the model has some.
        best: how many of the best tokens to return.
    """
    scores: list[Score | None] = [None]
    if len(ids) > 1:
        first = [ids[0]]
        reads: dict[str, Any] = {"prompts": [first]}
        if served.reads_source:
            reads = {"prompts": {name: [value] for name, value in source.items()}, "prefix": first}
        with _ONE:
            # A teacher of ratio 1 feeds the ids one by one, whatever the model itself would choose.
            (found,) = decode(
                served.model,
                **reads,
                teacher=[list(ids[1:])],
                teacher_ratio=1.0,
                max_new_tokens=len(ids) - 1,
                eos_token_id=None,
                logprobs=best,
                batch_size=1,
                workers=1,
            )
        assert found.teacher_logprobs is not None
        tops: list[list[tuple[int, float]]] = [[] for _ in ids[1:]]
        if found.top_logprobs is not None:
            both = zip(*(own.tolist() for own in found.top_logprobs), strict=True)
            tops = [list(zip(*step, strict=True)) for step in both]
        scores += zip(found.teacher_logprobs.tolist(), tops, strict=True)
    return served.texts_of(ids), scores


class Scoring:
    """The endpoints."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models, self._limits = models, limits

    async def score(self, request: HttpRequest) -> Response:
        """Return how probable the texts of `input` are."""
        return await self._answered(request, self._score, "input")

    async def tokenize(self, request: HttpRequest) -> Response:
        """Return the ids of a text, as a prompt has them."""
        return await self._answered(request, self._tokenize, "prompt")

    async def detokenize(self, request: HttpRequest) -> Response:
        """Return the text of ids."""
        return await self._answered(request, self._detokenize, "tokens")

    async def _answered(self, request: HttpRequest, function: Any, field: str) -> Response:
        """Answer with what a function returns for the fields; `field` is the one that holds texts."""
        body = await read_body(request.scope, request.receive, self._limits)
        served, answer = await unless_left(request.receive, in_thread(self._answer, function, field, body))
        request.state.model = served.name
        return JSONResponse(answer)

    def _answer(self, function: Any, field: str, body: bytes) -> tuple[Served, dict[str, Any]]:
        fields = Fields(read_json(body))
        served = self._models.get(fields.text("model"))
        try:
            return served, {"model": served.name, **function(served, fields)}
        except Exception as error:
            raise api_error(error, field) from error

    def _score(self, served: Served, fields: Fields) -> dict[str, Any]:
        source, inputs = fields.take("source"), read_prompts(fields.take("input"), self._limits)
        fields.end()
        if served.reads_source and source is None:
            raise wrong("source", f"{served.name} has an encoder; pass its source: text, ids or an array")
        if not served.reads_source and source is not None:
            raise wrong("source", f"{served.name} has no encoder; leave it out")
        prompts = None
        if source is not None:
            prompts = {name: [value] for name, value in served.read_source(source)[0].items()}
        data = []
        for index, text in enumerate(inputs):
            if not text:
                raise wrong("input", f"entry {index} is empty; expected a string or ids")
            ids = served.read_prompt(text, goes_on=True, name="input").ids  # score() itself puts BOS before them
            with _ONE:
                (values,) = score(served.model, [ids], prompts=prompts, seed=0)
            data.append({"index": index, **_scored(served, ids, values)})
        return {"object": "list", "data": data}

    def _tokenize(self, served: Served, fields: Fields) -> dict[str, Any]:
        text = fields.take("prompt")
        fields.end()
        if not isinstance(text, str):
            raise wrong("prompt", "expected a string")
        tokens = served.read_prompt(text, goes_on=True).ids
        start = served.text_start
        return {"tokens": [*start, *tokens], "count": len(start) + len(tokens), "texts": served.texts_of(tokens)}

    def _detokenize(self, served: Served, fields: Fields) -> dict[str, Any]:
        (ids,) = read_prompts(fields.take("tokens"), self._limits)
        fields.end()
        if not isinstance(ids, list) or any(token >= served.model.vocab_size for token in ids):
            raise wrong("tokens", f"expected a list of ids from 0 to {served.model.vocab_size - 1}")
        return {"prompt": "".join(served.texts_of(ids))}


def _scored(served: Served, ids: Sequence[int], values: Any) -> dict[str, Any]:
    """Return the scores of one text."""
    known = values[np.isfinite(values)].astype(np.float64)
    total = float(known.sum())
    return {
        "tokens": served.texts_of(ids),
        "token_ids": list(map(int, ids)),
        "token_logprobs": [None if math.isnan(value) else number(value) for value in values.tolist()],
        "logprob": total,
        "perplexity": math.exp(min(-total / len(known), 700.0)) if len(known) else None,
    }
