"""Errors as OpenAI's API answers them: a status, and JSON that names the field at fault."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from decoding.errors import Cancelled, DecodeError, DecodingError, ModelError, OptionError, QueueFull

_LOG = logging.getLogger("decoding.serve")

# How the fields of a request are called that the options of `decode()` come from.
_FIELDS = {
    "num_return_sequences": "n",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "prefix": "prompt",
    "state": "session",
    "return_state": "session",
    "strategy": "temperature",
    "phrases": "must_contain",
}
# "request 3: Sample(top_k=-1): ..." or "prompts[0]: ...": the option that a message is about.
_OPTION = re.compile(r"(?:request \d+: )?(?:\w+\()?([a-z_]+)[=:\[ ]")


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        param: the field at fault.
        code: a word for programs, such as "model_not_found".
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON object."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> Mapping[str, str]:
        """Return the headers that the answer has besides."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body(), self.status, dict(self.headers()))


class ClientLeft(Exception):
    """Nobody waits for the answer any longer."""


def wrong(param: str, message: str, *, code: str | None = None) -> ApiError:
    """Return the error of a field with a wrong value: status 400."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def closing() -> ApiError:
    """Return the error of requests that come while the server ends."""
    return ApiError(503, "the server is closing; try another one, or later", code="closing", retry_after=1)


def api_error(error: BaseException, param: str | None = None) -> ApiError:
    """Return how an exception of decoding is answered.

    Args:
        param: the field at fault where the message does not say it.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        message = "too many requests wait already; try again later"
        return ApiError(429, message, code="queue_full", retry_after=1)
    if isinstance(error, Cancelled):
        return closing()
    if isinstance(error, OptionError):
        return ApiError(400, str(error), param=_param(str(error)) or param)
    if isinstance(error, DecodeError) and "phrases of MustContain" in str(error):  # which the client chose
        return ApiError(400, str(error), param="must_contain")
    if isinstance(error, ModelError | DecodingError):
        return ApiError(500, str(error), code="decoding_failed")
    _LOG.error("a request has failed by an error of the server", exc_info=error)
    return ApiError(500, "the server has failed; its log says more", code="internal_error")


def _param(message: str) -> str | None:
    """Return the field that a message about an option is about, where it is one of a request."""
    found = _OPTION.match(message)
    option = found.group(1) if found else ""
    if option in _FIELDS:
        return _FIELDS[option]
    return option if option in ("prompt", "source", "stop", "seed", "temperature", "top_k", "top_p", "min_p",
                                "typical_p", "num_beams", "length_penalty", "must_contain", "logprobs", "return_attention") else None  # fmt: skip
