"""A gateway's address, as users write it: what an agent dials, where its files are, and whether others can listen."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit, urlunsplit

from edge_agent.attach.errors import AttachRejected

PATH = "/v1/agent"
SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def agent_url(url: str) -> str:
    """The WebSocket URL of a gateway. Raises AttachRejected."""
    wrong = AttachRejected(f"{url} is no gateway's URL: it looks like https://gateway.example.com")
    try:
        parts = urlsplit(url)
        scheme = SCHEMES[parts.scheme]
        if not parts.hostname or parts.port == 0:
            raise wrong
    except (ValueError, KeyError):
        raise wrong from None
    base = parts.path.rstrip("/").removesuffix(PATH).removesuffix("/v1")
    return urlunsplit((scheme, parts.netloc, base + PATH, "", ""))


def http_url(url: str) -> str:
    """The URL of a gateway that its paths are put behind, without user and password. Raises AttachRejected."""
    parts = urlsplit(agent_url(url))
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme.replace("ws", "http"), netloc, parts.path.removesuffix(PATH), "", ""))


def is_unencrypted(url: str) -> bool:
    """Whether a URL of the two would send the key over a network without TLS."""
    parts = urlsplit(url)
    if parts.scheme in ("wss", "https") or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
