"""Errors as OpenAI clients read them: {"error": {message, type, param, code}}, whatever went wrong.

The gateway's own code raises ApiError; the handlers here give the framework's errors the same shape. An error in the
middle of a stream has the same body and no status (event_stream.py).
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from edgedraft.workers.pool import JobRefused, WorkersUnavailable
from gateway.storage.database import DatabaseDown

INVALID = "invalid_request_error"
SERVER = "server_error"
RATE_LIMIT = "rate_limit_error"

MAX_MESSAGE = 300  # characters of an error's message, which may repeat what the client sent

log = logging.getLogger(__name__)


class ApiError(Exception):
    """Ends a request with `status` and an OpenAI error body, whose message is cut at MAX_MESSAGE.

    `retry_after`, in seconds, sets the header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE - 3]}..."
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.body = error_body(message, kind, param, code)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers |= {"retry-after": str(max(1, ceil(retry_after)))}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def internal_error() -> ApiError:
    """The error for a fault of the gateway; details are in the log only."""
    return ApiError(500, "The gateway failed on this request.", kind=SERVER, code="internal_error")


def shutting_down() -> ApiError:
    """The error for requests that arrive during shutdown or are not finished within the grace period."""
    return ApiError(503, "The gateway is shutting down.", kind=SERVER, code="shutting_down", retry_after=1)


def database_down() -> ApiError:
    """The error when keys or usage cannot be read or written."""
    message = "The gateway's database cannot be reached."
    return ApiError(503, message, kind=SERVER, code="database_unavailable", retry_after=1)


def overloaded(error: Exception) -> ApiError:
    """The error when too much of a key's work waits, or of all keys'."""
    return ApiError(429, f"{error}.", kind=RATE_LIMIT, code="overloaded", retry_after=1)


def unavailable(error: Exception) -> ApiError:
    """The error when no worker can be started."""
    return ApiError(
        503, f"The request cannot be prepared now: {error}.", kind=SERVER, code="unavailable", retry_after=1
    )


def install(app: FastAPI) -> None:
    """Registers the handlers that give every error the same shape."""

    @app.exception_handler(ApiError)
    async def own(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(JobRefused)
    async def job(request: Request, error: JobRefused) -> JSONResponse:
        return overloaded(error).response()

    @app.exception_handler(WorkersUnavailable)
    async def workers(request: Request, error: WorkersUnavailable) -> JSONResponse:
        return unavailable(error).response()

    @app.exception_handler(DatabaseDown)
    async def database(request: Request, error: DatabaseDown) -> JSONResponse:
        log.error("database not reached path=%s reason=%s", request.url.path, error)
        return database_down().response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code in (404, 405):
            message = f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path}"
        else:
            message = str(error.detail)
        kind = SERVER if error.status_code >= 500 else INVALID
        return ApiError(error.status_code, message, kind=kind, headers=dict(error.headers or {})).response()

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return ApiError(400, first["msg"], param=".".join(map(str, first["loc"][1:])) or None).response()
