"""Which web pages may act for a user: those of the gateway itself, and of the origins that its operator allows.

Browsers put the page's origin into each WebSocket handshake and POST (RFC 6454, RFC 6455 section 10.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gateway.http.errors import ApiError


def check_origin(headers: Headers, allowed: Sequence[str]) -> str:
    """The origin of a request, "" for a client that is no browser. Raises ApiError 403 for a page that is not allowed.

    A page is the gateway's own if its host and port are those that the request was sent to: in front of the gateway a
    proxy may end TLS, so schemes are not compared.
    """
    origin = headers.get("origin", "")
    if not origin or "*" in allowed or origin in allowed or _host(origin) == headers.get("host", "").lower():
        return origin
    raise ApiError(403, "Pages of this origin may not attach devices.", code="invalid_origin")


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
