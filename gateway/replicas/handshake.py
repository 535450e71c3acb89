"""Mutual authentication of replicas by a shared secret that neither side sends.

The requesting replica sends a challenge: a nonce, the time and their HMAC-SHA256 with the host's address. The host
responds with the nonce's HMAC. So an address that somebody else wrote into the directory gets neither the secret nor a
prompt, and a challenge that was overheard cannot be replayed. The link itself is not encrypted: use wss:// addresses on
a network that is not the datacenter's own.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

MIN_SECRET_LENGTH = 16  # characters
MAX_CLOCK_SKEW = 60.0  # seconds by which two replicas' clocks may differ


class HandshakeFailed(Exception):
    """The other side does not have the secret, or replays a challenge; the message is for the log."""


class Handshake:
    """Challenges and responses of one replica. Raises ValueError for a secret that is too short."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < MIN_SECRET_LENGTH:
            raise ValueError(f"--replica-secret must have {MIN_SECRET_LENGTH} characters or more")
        self._key = secret.encode()
        self._clock = clock
        self._used: dict[str, float] = {}  # nonces that were accepted, until their challenges are too old anyway

    def challenge(self, address: str) -> tuple[str, str]:
        """A challenge to the replica at `address`, and the response that it must give."""
        nonce, at = secrets.token_hex(16), f"{self._clock():.0f}"
        return f"{nonce} {at} {self._sign('call', address, nonce, at)}", self._sign("answer", address, nonce)

    def verify(self, address: str, challenge: str) -> None:
        """Check a challenge to this replica, whose address is `address`. Raises HandshakeFailed."""
        nonce, at, signature = [*challenge.split(" "), "", "", ""][:3]
        if not challenge.isascii():
            raise HandshakeFailed("a challenge that is not ASCII")
        if not hmac.compare_digest(signature.encode(), self._sign("call", address, nonce, at).encode()):
            raise HandshakeFailed(f"no challenge of a replica to {address}")
        now = self._clock()
        if abs(now - float(at)) > MAX_CLOCK_SKEW:
            raise HandshakeFailed(f"a challenge {now - float(at):.0f} seconds old")
        self._used = {used: until for used, until in self._used.items() if until > now}
        if nonce in self._used:
            raise HandshakeFailed("a challenge used before")
        self._used[nonce] = now + 2 * MAX_CLOCK_SKEW

    def respond(self, address: str, challenge: str) -> str:
        """The response to a challenge that was verified."""
        return self._sign("answer", address, challenge.split(" ", maxsplit=1)[0])

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()
