"""Servers of a benchmark as processes: start, readiness, CPU seconds, memory, end."""

from __future__ import annotations

import os
import select
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from edgedraft.child_process import python_command

START_SECONDS = 120.0


class ServerError(RuntimeError):
    """A server did not start; the message is the last line of its log."""


class ServerProcess:
    """A process and its children. Call `stop` at the end."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **(env or {})},
            )

    def read_url(self) -> str:
        """The last word of its first line of output. Raises ServerError."""
        assert self.process.stdout is not None
        ready = select.select([self.process.stdout], [], [], START_SECONDS)[0]
        words = self.process.stdout.readline().split() if ready else []
        if not words:
            raise ServerError(self._last_log_line())
        return words[-1]

    def wait_for(self, url: str) -> None:
        """Waits until `url` answers with 200. Raises ServerError."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.1)
        raise ServerError(self._last_log_line())

    def stop(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()

    def _last_log_line(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-200:] if lines else "no output"


def start_stub(module: str, *arguments: str, folder: Path) -> ServerProcess:
    """Starts a stub of this package."""
    command = python_command(f"loadtest.peers.gateways.{module}", *arguments)
    return ServerProcess(command, folder / f"{module}-{'-'.join(arguments)}.log")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / (1 << 20)


def pin_to_cores(pid: int, cores: Sequence[int]) -> None:
    """Pins all threads of a process to these cores, where the operating system supports it."""
    process = psutil.Process(pid)
    if hasattr(process, "cpu_affinity"):
        for thread in process.threads():
            psutil.Process(thread.id).cpu_affinity(list(cores))
