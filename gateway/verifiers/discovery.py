"""DNS discovery: dns+ws://NAME:PORT stands for one verifier at each address that the name resolves to.

Names are resolved by the operating system, so its hosts file and search domains apply. A name that cannot be resolved
at the moment changes nothing: whether a verifier is up is seen on its connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgedraft.observability.logs import event

log = logging.getLogger(__name__)

PREFIX = "dns+"
DEFAULT_PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class VerifierAddress:
    """A verifier's URL and, if its name has several addresses, the IP address (`host`) to connect to."""

    url: str
    host: str = ""

    def __str__(self) -> str:
        return f"{self.url} at {self.host}" if self.host else self.url


def is_dns_url(url: str) -> bool:
    return url.startswith(PREFIX)


async def resolve(url: str) -> frozenset[VerifierAddress] | None:
    """The verifiers that a dns+ws or dns+wss URL stands for now; None if the name cannot be resolved."""
    plain = url.removeprefix(PREFIX)
    parts = urlsplit(plain)
    try:
        hosts = await lookup(parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0))
    except OSError as error:
        event(log, "name not resolved", level=logging.WARNING, name=parts.hostname, reason=str(error))
        return None
    return frozenset(VerifierAddress(plain, host) for host in hosts)


async def lookup(host: str, port: int) -> set[str]:
    """The IP addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}
