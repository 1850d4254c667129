"""What every request passes before it is answered: the key, the limits, the count of those that run."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from decoding.serve.errors import ApiError, ClientLeft, closing
from decoding.serve.metrics import Metrics

T = TypeVar("T")

# Paths that need no key: probes, and the page, which holds nothing but itself.
_OPEN = ("/", "/health", "/ready", "/v2/health/live", "/v2/health/ready")
# Seconds in which a client must have sent a whole body.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Limits:
    """How much a server does for one request, and for all.

    Attributes:
        body_bytes: of a request.
        prompt_tokens: of a prompt, or of a source; prompts: in one request.
        n: outputs of each prompt, also those that `best_of` and `num_beams` search.
        max_tokens: longest output.
        connections: requests that are answered at the same time.
        sessions: states that are kept for each model; session_seconds: how long each, after its last use.
    """

    body_bytes: int = 1 << 20
    prompt_tokens: int = 32_768
    prompts: int = 128
    n: int = 128
    max_tokens: int = 4096
    connections: int = 1024
    sessions: int = 256
    session_seconds: float = 3600.0


class Gate:
    """Middleware that answers requests without the key, or too many at once, by itself, and counts the others.

    Attributes:
        running: requests that are answered now.
        is_closing: whether the server ends: set by the server, or by a test.

    Args:
        api_key: what clients send as ``Authorization: Bearer KEY``; None lets everybody in.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, api_key: str | None) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._key = None if api_key is None else api_key.encode()
        self.running, self.is_closing = 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # the client left before there was an answer

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.running += 1
        try:
            if (error := self._refused(scope)) is not None:
                await error.response()(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        except ClientLeft:
            pass
        finally:
            self.running -= 1
            self._metrics.answered(scope, status)

    def _refused(self, scope: Scope) -> ApiError | None:
        """Return why a request is not let in, or None."""
        path = scope["path"]
        if path in _OPEN and scope["method"] in ("GET", "HEAD"):
            return None
        if self._key is not None and not hmac.compare_digest(_bearer(scope), self._key):
            message = "wrong or missing key; send the header 'Authorization: Bearer KEY'"
            return ApiError(401, message, code="invalid_api_key")
        if self.is_closing:
            return closing()
        if self.running > self._limits.connections:
            message = f"{self._limits.connections} requests are answered already; try again later"
            return ApiError(503, message, code="too_many_connections", retry_after=1)
        return None


def _bearer(scope: Scope) -> bytes:
    header: bytes = dict(scope["headers"]).get(b"authorization", b"")
    kind, _, key = header.partition(b" ")
    return key.strip() if kind.lower() == b"bearer" else b""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the body of a request of JSON.

    Raises:
        ApiError: it says that it is something else (415), is too large (413), or takes too long (408).
        ClientLeft: the client has gone.
    """
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        # A page of another site can send a form without asking this server first, but not JSON.
        shown = kind.decode("latin-1") or "none"
        raise ApiError(415, f"Content-Type: {shown}; send 'Content-Type: application/json'", param="Content-Type")
    pieces, size = [], 0
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if max(size, _announced(headers)) > limits.body_bytes:
                    raise ApiError(413, f"the body has more than {limits.body_bytes} bytes", code="body_too_large")
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise ApiError(408, f"the body did not come in {_PATIENCE:g} seconds", code="timeout") from None


def _announced(headers: dict[bytes, bytes]) -> int:
    """Return the size that the headers say, 0 where they say none."""
    size = headers.get(b"content-length", b"0")
    return int(size) if size.isdigit() else 0


async def unless_left(receive: Receive, work: Awaitable[T]) -> T:
    """Return what `work` returns; cancel it when the client leaves.

    Raises:
        ClientLeft: it has left.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaves(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for other in (task, leaving):
            other.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _leaves(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def in_thread(function: Callable[..., T], *args: Any, undo: Callable[[T], object] | None = None) -> T:
    """Return what a function returns that runs in a thread; what it returns after this task was cancelled is undone."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if undo is not None:
            task.add_done_callback(lambda done: undo(done.result()) if done.exception() is None else None)
        raise
