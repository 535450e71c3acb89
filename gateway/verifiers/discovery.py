"""Verifiers that are told of by a name: dns+ws://NAME:PORT stands for one at each address that the name has now.

Resolving is the operating system's, so it follows its files and search domains. A name that cannot be resolved for now
changes nothing: verifiers that are there say so themselves.
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
PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class VerifierAddress:
    """Where a verifier is: a URL, and for one of several at a name, which address is dialled (`host`)."""

    url: str
    host: str = ""

    def __str__(self) -> str:
        return f"{self.url} at {self.host}" if self.host else self.url


def is_dns_url(url: str) -> bool:
    return url.startswith(PREFIX)


async def resolve(url: str) -> frozenset[VerifierAddress] | None:
    """Those that a dns+ws or dns+wss URL stands for now; None if that cannot be told."""
    plain = url.removeprefix(PREFIX)
    parts = urlsplit(plain)
    try:
        addresses = await lookup(parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0))
    except OSError as error:
        event(log, "name not resolved", level=logging.WARNING, name=parts.hostname, reason=str(error))
        return None
    return frozenset(VerifierAddress(plain, address) for address in addresses)


async def lookup(host: str, port: int) -> set[str]:
    """Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}
