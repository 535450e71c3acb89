"""A runner's process, seen from the benchmark that sends it jobs."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.peers.engines.runner import Output, Setup

START_SECONDS = 600.0
JOB_SECONDS = 900.0
RUNNERS = Path(__file__).parent


class PeerError(RuntimeError):
    """A system's process ended, or did not answer in time."""


@dataclass(frozen=True)
class System:
    """A system: its runner and the Python that runs it, empty if the system is not installed."""

    name: str
    runner: str
    python: str
    wants_gguf: bool = False


@dataclass(frozen=True)
class BenchJob:
    """One measured job, in seconds."""

    wall: float
    cpu: float
    outputs: list[Output]


class RunnerProcess:
    """A runner's process: a line of JSON per job, a line per answer. Call `stop` at the end."""

    def __init__(self, python: str, runner: str, setup: Mapping[str, Any], threads: int, log: Path) -> None:
        self.note = ""
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [python, str(RUNNERS / f"{runner}.py"), json.dumps(setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}},
                text=True,
            )

    def wait_ready(self) -> None:
        """Waits until the model is loaded. Raises PeerError."""
        self.note = self._answer(START_SECONDS)["ready"]

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a job and returns the answer. Raises PeerError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(self._last_log_line()) from error
        return self._answer(JOB_SECONDS)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise PeerError(f"no answer within {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._last_log_line())
        return json.loads(line)

    def _last_log_line(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-200:] if lines else f"ended with status {self._process.wait()}"


class Peer(RunnerProcess):
    """One system's runner."""

    def __init__(self, system: System, setup: Setup, folder: Path) -> None:
        super().__init__(system.python, system.runner, asdict(setup), setup.threads, folder / f"{system.runner}.log")
        self.system = system

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> BenchJob:
        """Generates `tokens` tokens for all prompts at once. Raises PeerError."""
        job = BenchJob(**self.ask({"prompts": prompts, "tokens": tokens}))
        if len(job.outputs) != len(prompts):
            raise PeerError(f"{len(job.outputs)} outputs for {len(prompts)} prompts")
        if any(isinstance(output, list) and len(output) != tokens for output in job.outputs):
            raise PeerError(f"an output does not have {tokens} tokens")
        return job
