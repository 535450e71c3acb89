"""A socket for http.client on which everything together has one deadline.

http.client's own timeouts are per read: a server that sends a byte now and then would hold a thread for ever.
"""

from __future__ import annotations

import io
import socket
import time
from typing import Any


class Deadline:
    """A point in time, by time.monotonic(), which may be moved."""

    def __init__(self, seconds: float) -> None:
        """In so many seconds from now."""
        self.at = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Raises TimeoutError when nothing is left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class DeadlineSocket:
    """What http.client uses of a socket."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.deadline = deadline
        self._sock = sock

    def sendall(self, data: bytes) -> None:
        self.arm()
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self, self._sock.makefile(mode, buffering=0)))  # type: ignore[call-overload]

    def close(self) -> None:
        self._sock.close()

    def arm(self) -> None:
        """Set the socket's timeout to what is left. Raises TimeoutError when nothing is."""
        self._sock.settimeout(self.deadline.seconds_left())


class _DeadlineReader(io.RawIOBase):
    """The reading end of a DeadlineSocket. Like a socket's own file, it keeps the socket open until it is closed."""

    def __init__(self, sock: DeadlineSocket, file: io.RawIOBase) -> None:
        self._sock = sock
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.arm()
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
