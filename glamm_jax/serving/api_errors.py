"""Refusals of the API: an HTTP status, a reason, and the field that it is about.

The body is OpenAI's error object: {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

from typing import Any

from glamm_jax.data.boxes import BoxError
from glamm_jax.data.preprocess import ImageError
from glamm_jax.errors import GLaMMError, printable
from glamm_jax.inference.answer_rows import QuestionError
from glamm_jax.inference.sampling import SamplingError
from glamm_jax.serving.jobs import (
    CancelledError,
    NotReadyError,
    QueueFullError,
    TooLateError,
    TooLongError,
)
from glamm_jax.text.prompt import PromptError

RETRY_SECONDS = 2  # that a client should wait before it tries again
BAD_REQUEST, CLIENT_CLOSED = 400, 499
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
# Error -> status, field and code.
_STATUS: dict[type[Exception], tuple[int, str | None, str]] = {
    QueueFullError: (429, None, "queue_full"),
    NotReadyError: (503, None, "not_ready"),
    TooLateError: (504, None, "timeout"),
    CancelledError: (CLIENT_CLOSED, None, "cancelled"),
    ImageError: (BAD_REQUEST, "image_url", "invalid_image"),
    BoxError: (BAD_REQUEST, "regions", "invalid_regions"),
    TooLongError: (BAD_REQUEST, "max_tokens", "context_length_exceeded"),
    PromptError: (BAD_REQUEST, "messages", "invalid_prompt"),
    QuestionError: (BAD_REQUEST, "max_tokens", "invalid_value"),
    SamplingError: (BAD_REQUEST, "temperature", "invalid_value"),
}


class APIError(GLaMMError):
    """A request is refused.

    Attributes:
        status: of HTTP.
        param: the field that is wrong.
        code: for programs.
    """

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str = "invalid"
    ):
        super().__init__(printable(message))
        self.param = None if param is None else printable(param)
        self.status, self.code = status, code

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, kind)
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers that say when to try again, and how to log in."""
        if self.status in (429, 503):
            return {"Retry-After": str(RETRY_SECONDS)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def api_error(error: Exception) -> APIError:
    """Return the refusal for an error of the library; 500 for one that is not the client's."""
    if isinstance(error, APIError):
        return error
    for kind, (status, param, code) in _STATUS.items():
        if isinstance(error, kind):
            return APIError(str(error), param, status=status, code=code)
    return APIError("internal error; see the server's log", status=500, code="internal_error")
