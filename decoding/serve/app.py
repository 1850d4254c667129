"""The ASGI application: its routes, and what happens when it starts and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from decoding.model.model import Model
from decoding.serve.completions import Completions
from decoding.serve.errors import ApiError, api_error
from decoding.serve.gate import Gate, Limits
from decoding.serve.kserve import Kserve
from decoding.serve.metrics import Metrics
from decoding.serve.models import Models, Settings
from decoding.serve.scoring import Scoring

# The page runs its own script, and asks this server; a browser loads nothing else for it.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(
    models: Mapping[str, str | Path | Model],
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    settings: Settings = Settings(),  # noqa: B008 - frozen
    api_key: str | None = None,
    allow_origins: tuple[str, ...] = (),
) -> Starlette:
    """Return an ASGI application that serves models; they are loaded when it starts.

    Args:
        models: models that `load()` returned, or what `load()` takes, by the names that clients use.
        limits: how much it does for one request.
        settings: how the models are loaded and run.
        api_key: the key that clients send as ``Authorization: Bearer KEY``; None: no key is needed.
        allow_origins: other sites whose pages may use it (CORS), such as "https://example.org".
    """
    served = Models(models, settings, limits)
    metrics = Metrics(served.statistics)
    gates: list[Gate] = []

    def gate(app: Any) -> Gate:
        gates.append(Gate(app, limits, metrics, api_key))
        return gates[0]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        served.start()
        yield
        await asyncio.to_thread(served.close, drain=False)  # what is to be drained has been by now

    origins = [Middleware(CORSMiddleware, allow_origins=allow_origins, allow_methods=["*"], allow_headers=["*"])]
    app = Starlette(
        routes=_routes(served, limits, metrics),
        middleware=[*(origins if allow_origins else []), Middleware(gate)],
        exception_handlers={ApiError: _answer_error, HTTPException: _answer_http, Exception: _answer_error},
        lifespan=lifespan,
    )
    app.middleware_stack = app.build_middleware_stack()
    app.state.models, app.state.gate = served, gates[0]
    return app


def _routes(models: Models, limits: Limits, metrics: Metrics) -> list[Route]:
    page = files("decoding.serve").joinpath("page.html").read_text(encoding="utf-8")
    scoring, kserve = Scoring(models, limits), Kserve(models, limits, metrics)

    async def show_page(request: HttpRequest) -> Response:
        return HTMLResponse(
            page, headers={"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        )

    async def health(request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: HttpRequest) -> Response:
        is_ready = models.ready and not request.app.state.gate.is_closing
        return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)

    async def list_models(request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [served.facts() for served in models]})

    async def one_model(request: HttpRequest) -> Response:
        return JSONResponse(models.get(request.path_params["name"]).facts())

    async def show_metrics(request: HttpRequest) -> Response:
        text = await asyncio.to_thread(metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    one = "/v2/models/{name}"
    return [
        Route("/", show_page),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", show_metrics),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", one_model),
        Route("/v1/completions", Completions(models, limits, metrics).answer, methods=["POST"]),
        Route("/v1/score", scoring.score, methods=["POST"]),
        Route("/tokenize", scoring.tokenize, methods=["POST"]),
        Route("/detokenize", scoring.detokenize, methods=["POST"]),
        Route("/v2", kserve.server),
        Route("/v2/health/live", kserve.live),
        Route("/v2/health/ready", kserve.ready),
        Route(one, kserve.model),
        Route(f"{one}/ready", kserve.model_ready),
        Route(f"{one}/infer", kserve.infer, methods=["POST"]),
        Route(one + "/versions/1", kserve.model),
        Route(one + "/versions/1/ready", kserve.model_ready),
        Route(one + "/versions/1/infer", kserve.infer, methods=["POST"]),
    ]


async def _answer_error(request: HttpRequest, error: Exception) -> Response:
    return api_error(error).response()


async def _answer_http(request: HttpRequest, error: Exception) -> Response:
    """Answer what the routes do not know."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = f"there is no {path}" if error.status_code == 404 else f"{request.method} {path}: {error.detail}"
    answer = ApiError(error.status_code, message).response()
    answer.headers.update(error.headers or {})
    return answer
