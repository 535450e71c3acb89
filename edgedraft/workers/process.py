"""One worker process, as its pool sees it. Its methods block; each worker has a thread of the pool to itself."""

from __future__ import annotations

import subprocess
from contextlib import suppress

from edgedraft.child_process import python_command
from edgedraft.workers.child import READY
from edgedraft.workers.environment import bare_environment
from edgedraft.workers.limits import WorkerLimits
from edgedraft.workers.protocol import Job, Reply, Setup, decode_reply, read_frame, write_frame


class WorkerEnded(Exception):
    """The process has ended: over a job, or because it was killed."""


class WorkerProcess:
    """Of use until an exception."""

    def __init__(self, module: str, limits: WorkerLimits) -> None:
        """Returns at once; `wait_ready` waits for the process. Raises OSError."""
        self._limits = limits
        self._setups: set[str] = set()
        self._process = subprocess.Popen(
            python_command(module, *map(str, (limits.cpu_seconds, limits.setup_cpu_seconds, limits.memory_bytes))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=bare_environment(),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Raises WorkerEnded for a process that does not start."""
        assert self._process.stdout
        if self._process.stdout.readline() != READY:
            self.kill()
            raise WorkerEnded

    def has_setup(self, name: str) -> bool:
        return not name or name in self._setups

    def send_setup(self, name: str, content: bytes) -> None:
        """Raises WorkerEnded."""
        self._setups.add(name)
        self._write(Setup(name, content))

    def run(self, setup: str, content: bytes) -> Reply:
        """Does one job. Raises WorkerEnded when it does not end within the limits."""
        assert self._process.stdout
        self._write(Job(setup, content))
        try:
            frame = read_frame(self._process.stdout, self._limits.output_bytes)
        except (OSError, ValueError):
            frame = b""
        if not frame:
            self.kill()
            raise WorkerEnded
        return decode_reply(frame)

    def kill(self) -> None:
        """Ends the process, which makes a job in another thread raise WorkerEnded. Does not wait; may be repeated."""
        self._process.kill()

    def close(self) -> None:
        """Kills it, waits for its end and closes its pipes; for the thread that uses it."""
        self.kill()
        self._process.wait()
        for pipe in self._process.stdin, self._process.stdout:
            if pipe:
                with suppress(OSError):  # what has not been written cannot be flushed
                    pipe.close()

    def _write(self, message: Setup | Job) -> None:
        assert self._process.stdin
        try:
            write_frame(self._process.stdin, message)
        except (OSError, ValueError):
            self.kill()
            raise WorkerEnded from None
