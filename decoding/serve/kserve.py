"""The Open Inference Protocol, version 2 (KServe's), over JSON: text in, text out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from decoding.errors import shown
from decoding.serve.completions import Job, begin_completion, choices_of
from decoding.serve.errors import ApiError, ClientLeft, api_error, wrong
from decoding.serve.fields import Fields, read_completion, read_json
from decoding.serve.gate import Limits, in_thread, read_body, unless_left
from decoding.serve.metrics import Metrics
from decoding.serve.models import Models, Served

# Fields of completions that have no sense here: the inputs take their place, or the answer has no room for what they ask for.
_NOT_PARAMETERS = ("model", "prompt", "source", "stream", "stream_options", "echo", "n", "best_of", "logprobs",
                   "return_attention", "return_beams")  # fmt: skip


class Kserve:
    """The endpoints. Errors are ``{"error": message}``, as the protocol has them."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics

    async def server(self, request: HttpRequest) -> Response:
        """Return the name of the server."""
        return JSONResponse({"name": "rnn-decoding", "version": version("rnn-decoding"), "extensions": []})

    async def live(self, request: HttpRequest) -> Response:
        """Return that the process answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: HttpRequest) -> Response:
        """Return whether all models are loaded."""
        ready = self._models.ready and not request.app.state.gate.is_closing
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: HttpRequest) -> Response:
        """Return whether a model is loaded."""
        name = request.path_params["name"]
        try:
            self._models.get(name)
        except ApiError as error:
            return _failed(error)
        return JSONResponse({"name": name, "ready": True})

    async def model(self, request: HttpRequest) -> Response:
        """Return the inputs and outputs of a model."""
        try:
            served = self._models.get(request.path_params["name"])
        except ApiError as error:
            return _failed(error)
        return JSONResponse(
            {
                "name": served.name,
                "versions": ["1"],
                "platform": "rnn-decoding",
                "inputs": [_tensor(name, [-1]) for name in _inputs(served)],
                "outputs": [_tensor("text_output", [-1]), _tensor("finish_reason", [-1])],
            }
        )

    async def infer(self, request: HttpRequest) -> Response:
        """Return a text for each text."""
        start = time.monotonic()
        try:
            served = self._models.get(request.path_params["name"])
            request.state.model = served.name
            body = await read_body(request.scope, request.receive, self._limits)
            work = in_thread(self._begin, served, body, start, undo=lambda begun: begun[1].close())
            name, job = await unless_left(request.receive, work)
            try:
                found = await unless_left(request.receive, self._whole(job))
            finally:
                job.close()
        except ClientLeft:
            raise
        except Exception as error:
            return _failed(api_error(error))
        self._metrics.read(served.name, job.prompt_tokens)
        return JSONResponse({"model_name": served.name, **({} if name is None else {"id": name}), "outputs": found})

    def _begin(self, served: Served, body: bytes, start: float) -> tuple[str | None, Job]:
        """Read a request and give it to the engine."""
        fields = Fields(read_json(body))
        name, inputs, outputs = fields.text("id"), fields.take("inputs"), fields.take("outputs")
        parameters = fields.take("parameters") or {}
        fields.end()
        if not isinstance(parameters, dict):
            raise wrong("parameters", f"found {shown(parameters)}; expected an object")
        for field in _NOT_PARAMETERS:
            if field in parameters:
                raise wrong(f"parameters.{field}", "it is no parameter of this protocol here; use /v1/completions")
        _check_outputs(outputs)
        texts = _texts(served, inputs)
        values = {"prompt": texts.get("text_input"), **parameters}
        if served.reads_source:
            sources = texts.get("source", [None])
            if len(sources) != 1:
                raise wrong("inputs", f"source has shape [{len(sources)}]; expected [1], one for all text_input")
            values["source"] = sources[0]
        return name, begin_completion(served, read_completion(values, self._limits), start)

    async def _whole(self, job: Job) -> list[dict[str, Any]]:
        found = [await ticket.wait() for ticket in job.tickets]
        self._metrics.wrote(job.served.name, sum(len(h.token_logprobs) for decoded in found for h in decoded))
        choices = await in_thread(choices_of, job, found)
        texts, reasons = ([choice[name] for choice in choices] for name in ("text", "finish_reason"))
        return [
            {**_tensor("text_output", [len(texts)]), "data": texts},
            {**_tensor("finish_reason", [len(reasons)]), "data": reasons},
        ]


def _failed(error: ApiError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, error.status, dict(error.headers()))


def _tensor(name: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": shape}


def _inputs(served: Served) -> list[str]:
    return ["source", "text_input"] if served.reads_source else ["text_input"]


def _check_outputs(outputs: Any) -> None:
    """Refuse outputs that there are not; all that there are come anyway."""
    if outputs is None:
        return
    known = ("text_output", "finish_reason")
    if not isinstance(outputs, list) or any(not isinstance(o, dict) or o.get("name") not in known for o in outputs):
        raise wrong("outputs", f"found {shown(outputs)}; expected objects with the names {' and '.join(known)}")


def _texts(served: Served, inputs: Any) -> Mapping[str, list[str]]:
    """Return the texts of each input."""
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise wrong("inputs", f"found {shown(inputs)}; expected a list of tensors")
    found: dict[str, list[str]] = {}
    for place, values in enumerate(inputs):
        tensor = Fields(values, f"inputs[{place}].")
        name, kind, shape, data = (tensor.take(key) for key in ("name", "datatype", "shape", "data"))
        tensor.take("parameters")
        tensor.end()
        if name not in _inputs(served):
            raise wrong("inputs", f"found the name {shown(name)}; {served.name} has {' and '.join(_inputs(served))}")
        if kind != "BYTES" or not isinstance(data, list) or not data or not all(isinstance(d, str) for d in data):
            raise wrong("inputs", f"{name}: expected the datatype BYTES and a list of strings as data")
        if shape not in ([len(data)], [len(data), 1]):
            raise wrong("inputs", f"{name}: found the shape {shown(shape)}; expected [{len(data)}], as many as there are strings")  # fmt: skip
        found[name] = data
    if missing := [name for name in _inputs(served)[:1] if name not in found]:
        raise wrong("inputs", f"{missing[0]} is missing")
    return found
