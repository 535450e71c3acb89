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
    own = _host(f"//{headers.get('host', '')}")
    if not origin or "*" in allowed or origin in allowed or (own and _host(origin) == own):
        return origin
    raise ApiError(
        403,
        "Pages of this origin may not attach devices. If it is the gateway's own, a proxy in front changes the Host "
        "header; --allowed-origins allows an origin by name.",
        code="invalid_origin",
    )


def _host(url: str) -> str:
    """Host and port of a URL, in lower case and without a scheme's own port; "" for what is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = parts.hostname or ""
    return host if port in (None, 80, 443) else f"{host}:{port}"
