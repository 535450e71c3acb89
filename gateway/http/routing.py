"""ASGI middleware before the routes: a trailing slash changes nothing, and HEAD is GET without a body."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """Serves PATH/ as PATH. A redirect would name a host and scheme that a proxy in front may have changed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
            if raw_path := scope.get("raw_path"):
                scope["raw_path"] = raw_path.rstrip(b"/") or b"/"
        await self._app(scope, receive, send)


class HeadAsGet:
    """Routes HEAD as GET (RFC 9110, section 9.3.2); the server leaves the response's body out.

    Routes whose bodies cost something to read find the request's own method in `scope["requested_method"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "requested_method": "HEAD"}
        await self._app(scope, receive, send)
