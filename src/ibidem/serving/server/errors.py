"""Refusals in the form of OpenAI's API."""

import traceback
from pathlib import Path
from typing import Any

from ibidem import log
from ibidem.errors import AccessDenied, AuditError, IbidemError, NoRoom


class ApiError(IbidemError):
    """A request is refused: a status, and one line that says what, where and what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_s = status, code, param, retry_s

    def body(self) -> dict[str, Any]:
        """Return what is sent.

        >>> ApiError(404, "no such model", code="model_not_found").body()["error"]["type"]
        'invalid_request_error'
        """
        return {"error": {"message": str(self), "type": _type(self.status), "param": self.param, "code": self.code}}


def shutting_down() -> ApiError:
    """Return the refusal of a server that ends."""
    return ApiError(503, "the server is shutting down", code="shutting_down", retry_s=5)


def refusal_of(error: Exception) -> ApiError:
    """Return what a client is told of an error: one line without a path, a text of anybody or a stack.

    What is nobody's fault but ours is logged by its kind and place.

    >>> refusal_of(AccessDenied("/srv/acl.yaml changed")).status
    403
    """
    match error:
        case ApiError():
            return error
        case AccessDenied():
            return ApiError(403, "what you may read has changed meanwhile; ask again", code="access_changed")
        case AuditError():
            told = "the audit log cannot be written, so nothing is answered; tell the operator of this server"
            return ApiError(503, told, code="audit_unavailable")
        case NoRoom():
            return ApiError(400, f"messages: {error}", code="context_length_exceeded", param="messages")
        case _:
            log.event("serve.failed", error=type(error).__name__, place=_place(error))
            return ApiError(500, "the server failed; its log names the kind of error")


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def _type(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "server_error" if status >= 500 else "invalid_request_error"
