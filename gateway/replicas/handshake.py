"""How replicas know each other: both sides of a link prove that they have the secret, and neither ever sends it.

The caller signs whom it calls, when, and a number used once; the callee signs that number. So an address that somebody
else put into the registry gets neither the secret nor a prompt, and a call that was overheard cannot be made again. The
link itself is as private as its network: wss:// addresses where that is not the datacenter's own.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

LEAST_SECRET = 16  # characters
SKEW_SECONDS = 60.0  # by which two replicas' clocks may differ


class HandshakeFailed(Exception):
    """The other side does not have the secret; the text says what was wrong, to the log."""


class Handshake:
    """One replica's share of the secret. Raises ValueError for a secret that can be guessed."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < LEAST_SECRET:
            raise ValueError(f"--replica-secret must have {LEAST_SECRET} characters or more")
        self._key = secret.encode()
        self._clock = clock
        self._used: dict[str, float] = {}  # numbers that calls were made with, until they are too old anyway

    def challenge(self, address: str) -> tuple[str, str]:
        """What to send to the replica at `address`, and what it must answer."""
        number, at = secrets.token_hex(16), f"{self._clock():.0f}"
        return f"{number} {at} {self._sign('call', address, number, at)}", self._sign("answer", address, number)

    def verify(self, address: str, call: str) -> None:
        """Whether this is a new call of a replica to this one, which is at `address`. Raises Unproven."""
        number, at, proof = [*call.split(" "), "", "", ""][:3]
        if not call.isascii():
            raise HandshakeFailed("a call that is no text")
        if not hmac.compare_digest(proof.encode(), self._sign("call", address, number, at).encode()):
            raise HandshakeFailed(f"no call of a replica to {address}")
        now = self._clock()
        if abs(now - float(at)) > SKEW_SECONDS:
            raise HandshakeFailed(f"a call {now - float(at):.0f} seconds old")
        self._used = {used: until for used, until in self._used.items() if until > now}
        if number in self._used:
            raise HandshakeFailed("a call made before")
        self._used[number] = now + 2 * SKEW_SECONDS

    def respond(self, address: str, call: str) -> str:
        """What to answer to a call that was checked."""
        return self._sign("answer", address, call.split(" ", maxsplit=1)[0])

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()
