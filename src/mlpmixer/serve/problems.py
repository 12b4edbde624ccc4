"""What goes wrong in a request, as a status and a JSON body: {"error": {"status", "code", "message"}}.

Under /v2 it is {"error": message}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


class Problem(Exception):
    """A request that is refused.

    Attributes:
        status: Of HTTP.
        code: A word for programs, such as "too_large".
        message: A sentence for people; it never repeats what the request had.
        headers: Of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def response(self, path: str = "") -> JSONResponse:
        """As an answer on `path`: the Open Inference Protocol has nothing but a text."""
        body = {"error": self.message} if path.startswith("/v2") else self.body()
        return JSONResponse(body, self.status, self.headers)

    def body(self) -> dict[str, Any]:
        return {"error": {"status": self.status, "code": self.code, "message": self.message}}


def too_large(most: int) -> Problem:
    return Problem(413, "too_large", f"a request may have {most:,} bytes")


def not_found(message: str) -> Problem:
    return Problem(404, "not_found", message)


def unreadable(message: str) -> Problem:
    return Problem(415, "unreadable", message)


def invalid(message: str) -> Problem:
    return Problem(422, "invalid", message)


def malformed(message: str) -> Problem:
    return Problem(400, "malformed", message)


def busy(seconds: float) -> Problem:
    wait = max(1, round(seconds + 0.5))
    return Problem(429, "busy", f"too many images are waiting; try again in {wait} s", {"Retry-After": str(wait)})
