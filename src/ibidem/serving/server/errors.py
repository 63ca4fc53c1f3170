"""Refusals in the form of OpenAI's API."""

from typing import Any

from ibidem.errors import IbidemError


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
