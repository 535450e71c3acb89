"""Supervises EdgeDraft processes on this machine: starts them, waits until they are ready, stops them in order.

Used by `edgedraft up`, benchmarks and tests. Each process is the `edgedraft` command with ordinary flags.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import urlsplit

from edgedraft.child_process import program_environment, python_command
from edgedraft.private_files import open_private

GRACE_SECONDS = 10.0
_BRIEF_DRAIN = ("--drain-grace", str(GRACE_SECONDS / 2))  # shorter than the grace, so that a drain ends before SIGKILL


class StartError(RuntimeError):
    """A process ended, or the time ran out, before it was ready."""


class ManagedProcess:
    """One `edgedraft` process. It is ready when it prints its first line to stdout, whose last word is its address."""

    def __init__(self, *words: str, env: Mapping[str, str] | None = None, log: IO[str] | None = None) -> None:
        self.arguments = words
        self.address = ""
        self._ready = threading.Event()
        self.popen = subprocess.Popen(
            python_command("edgedraft.cli", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=program_environment(words[0], env),
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which stops processes in order
        )
        threading.Thread(target=self._read_stdout, daemon=True).start()

    def wait_ready(self, seconds: float) -> str:
        """Returns the address. Raises StartError if the process ends or `seconds` pass first."""
        stdout_ended = self._ready.wait(seconds) and not self.address
        if stdout_ended:
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(GRACE_SECONDS)
        if not self.address:
            code = self.popen.poll()
            self.stop()
            how = f"took more than {seconds:.0f} s to start" if code is None else f"ended with status {code}"
            raise StartError(f"edgedraft {self.arguments[0]} {how}")
        return self.address

    def stop(self) -> int:
        """Sends SIGTERM, then SIGKILL after GRACE_SECONDS; returns the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)  # a stopped process does not handle SIGTERM
            self.popen.terminate()
            try:
                self.popen.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        return self.popen.wait()

    def _read_stdout(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if not self.address and line.startswith("edgedraft "):
                self.address = line.split()[-1]
                self._ready.set()
        self._ready.set()


class Supervisor:
    """Starts processes; leaving the context stops all of them, the last one first.

    Gateways and agents get `key`, and gateways and verifiers a random token, in their environment: flags show in the
    process list.
    """

    def __init__(
        self,
        key: str,
        log_folder: Path | None = None,
        start_seconds: float = 300.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.key = key
        self.url = ""
        self.verifier_token = secrets.token_urlsafe(24)
        self._env = {"EDGEDRAFT_KEY": key, "EDGEDRAFT_VERIFIER_TOKEN": self.verifier_token, **(env or {})}
        self._log_folder = log_folder
        self._start_seconds = start_seconds
        self.processes: list[ManagedProcess] = []

    def start(self, *words: str) -> ManagedProcess:
        """Starts a process and waits until it is ready. Raises StartError."""
        child = self.launch(*words)
        self.wait_ready(child)
        return child

    def launch(self, *words: str) -> ManagedProcess:
        """Starts a process without waiting."""
        log: IO[str] | None = None
        if self._log_folder:
            log = open_private(self._log_folder / f"{len(self.processes)}-{words[0]}.log")
        child = ManagedProcess(*words, env=self._env, log=log)
        self.processes.append(child)
        return child

    def wait_ready(self, child: ManagedProcess) -> str:
        """Waits until a launched process is ready and returns its address. Raises StartError."""
        return child.wait_ready(self._start_seconds)

    def restart(self, child: ManagedProcess) -> ManagedProcess:
        """Launches a process that has ended again, on the same port, without waiting."""
        words = list(child.arguments)
        if "--port" in words:
            words[words.index("--port") + 1] = str(urlsplit(child.address).port)
        return self.launch(*words)

    def start_verifier(self, *flags: str) -> ManagedProcess:
        child = self.launch_verifier("--port", "0", *flags)
        self.wait_ready(child)
        return child

    def launch_verifier(self, *flags: str) -> ManagedProcess:
        return self.launch("verifier", *_BRIEF_DRAIN, *flags)

    def start_gateway(self, *verifiers: str, flags: tuple[str, ...] = ()) -> ManagedProcess:
        named = [word for url in verifiers for word in ("--verifier", url)]
        child = self.start("gateway", *_BRIEF_DRAIN, *named, *(flags or ("--port", "0")))
        self.url = child.address
        return child

    def wait_for_verifier(self, url: str = "") -> None:
        """Waits until that gateway, by default the last one, has a verifier. Raises StartError after start_seconds."""
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{url or self.url}/readyz", timeout=10):
                return
            time.sleep(0.05)
        raise StartError("the gateway found no verifier")

    def start_agent(self, *flags: str) -> ManagedProcess:
        return self.start("attach", self.url, *flags)

    def wait_any_exit(self) -> ManagedProcess:
        """Blocks until any process ends by itself, and returns it."""
        while True:
            for child in self.processes:
                if child.popen.poll() is not None:
                    return child
            time.sleep(0.2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for child in reversed(self.processes):
                child.stop()
        except BaseException:  # such as a second Ctrl-C: leave no process behind
            for child in self.processes:
                child.popen.kill()
            raise
