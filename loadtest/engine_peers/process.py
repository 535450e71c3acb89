"""A runner's process, from the side that gives it jobs."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.engine_peers.runner import Output, Setup

START_SECONDS = 600.0
JOB_SECONDS = 900.0
RUNNERS = Path(__file__).parent


class PeerError(RuntimeError):
    """A system's process ended, or was silent for too long."""


@dataclass(frozen=True)
class System:
    """One system: whose Python runs which runner. Without a Python it is not installed."""

    name: str
    runner: str
    python: str
    wants_gguf: bool = False


@dataclass(frozen=True)
class Job:
    """What one measured job took."""

    wall: float
    cpu: float
    outputs: list[Output]


class Runner:
    """A runner's process: a line of JSON for each job, a line for its answer. Leave it by `stop`."""

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
        """Raises PeerError if the process does not come up."""
        self.note = self._answer(START_SECONDS)["ready"]

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Raises PeerError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(self._why()) from error
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
            raise PeerError(self._why())
        return json.loads(line)

    def _why(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-200:] if lines else f"ended with status {self._process.wait()}"


class Peer(Runner):
    """One system's, ready for prompts."""

    def __init__(self, system: System, setup: Setup, folder: Path) -> None:
        super().__init__(system.python, system.runner, asdict(setup), setup.threads, folder / f"{system.runner}.log")
        self.system = system

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Job:
        """Generate `tokens` for each prompt at once. Raises PeerError."""
        job = Job(**self.ask({"prompts": prompts, "tokens": tokens}))
        if len(job.outputs) != len(prompts):
            raise PeerError(f"{len(job.outputs)} outputs for {len(prompts)} prompts")
        if any(isinstance(output, list) and len(output) != tokens for output in job.outputs):
            raise PeerError(f"an output is not of {tokens} tokens")
        return job
