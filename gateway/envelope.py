"""What wraps every request whatever its path: an x-request-id on the answer, and a last answer when all else failed."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import internal_error

log = logging.getLogger(__name__)

_STARTS = ("http.response.start", "websocket.http.response.start")
_USABLE = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Envelope:
    """ASGI middleware. A usable x-request-id of the client is kept; the scope's state holds it as request_id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _USABLE.fullmatch(offered) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            if message["type"] in _STARTS:
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("request failed request=%s path=%s", request_id, scope["path"])
            if not started:
                await internal_error().response()(scope, receive, send_marked)
