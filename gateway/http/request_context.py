"""What wraps every request whatever its path: an x-request-id on the answer, a last answer when all else failed, and
one line in the log when it is over.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgedraft.observability.logs import event, request_fields
from edgedraft.observability.tracing import trace_id, valid_traceparent
from gateway.http.errors import internal_error

log = logging.getLogger(__name__)

_STARTS = ("http.response.start", "websocket.http.response.start")
_USABLE = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# Asked all the time.
_QUIET = frozenset({"/health", "/healthz", "/readyz", "/metrics", "/dashboard/data", "/dashboard/money"})
_LONGEST_PATH = 200


class RequestContext:
    """ASGI middleware. A usable x-request-id of the client is kept.

    It sets `request_id` and `began_at` (by time.monotonic()) in the scope's state. What an endpoint puts there as
    `log_fields` goes into the log line, `headers` into the response, whatever that is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered = headers.get("x-request-id", "")
        request_id = offered if _USABLE.fullmatch(offered) else f"req_{uuid.uuid4().hex}"
        trace = trace_id(valid_traceparent(headers.get("traceparent", "")))
        request_fields.set({"request": request_id, "trace": trace})
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["began_at"] = began_at = time.monotonic()
        status: int | None = None

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(scope["state"].get("headers", {}))
                headers["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("request failed path=%r", scope["path"][:_LONGEST_PATH])
            if status is None:
                await internal_error().response()(scope, receive, send_marked)
        finally:
            if scope["type"] == "http":
                event(
                    log,
                    "request",
                    level=logging.DEBUG if scope["path"] in _QUIET else logging.INFO,
                    method=scope["method"],
                    path=scope["path"][:_LONGEST_PATH],
                    status=status or "none",
                    seconds=round(time.monotonic() - began_at, 4),
                    **state.get("log_fields", {}),
                )
