"""The examples run as their first lines say: engine and drafter of one's own, a chat and a tool loop between them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgedraft.local.processes import ManagedProcess, Supervisor

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
KEY = "examples-key"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Service:
    url: str
    gateway: ManagedProcess

    def run(self, example: str, *words: str) -> str:
        """What an example prints."""
        env = {**os.environ, "OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_API_KEY": KEY}
        command = [sys.executable, str(EXAMPLES / example), *words]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def running(example: str, *words: str) -> Iterator[str]:
    """An example that runs on, and the last word of its first line."""
    command = [sys.executable, str(EXAMPLES / example), *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """custom_engine.py as the verifier of a real gateway."""
    folder = tmp_path_factory.mktemp("examples")
    with ExitStack() as stack:
        verifier = stack.enter_context(running("custom_engine.py", "README.md", "docs/architecture.md"))
        processes = stack.enter_context(Supervisor(KEY, folder, START_SECONDS))
        gateway = processes.start_gateway(
            verifier, flags=("--port", "0", "--database", f"sqlite:///{folder}/gateway.db")
        )
        processes.wait_for_verifier()
        yield Service(gateway.address, gateway)


def attached_agents(service: Service) -> int:
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=60) as answer:
        [count] = re.findall(r"^edgedraft_gateway_agents(?:\{.*\})? ([\d.]+)$", answer.read().decode(), re.MULTILINE)
    return int(float(count))


def test_a_tool_loop_over_an_engine_of_ones_own(service: Service) -> None:
    call = service.run("tools.py").splitlines()[0]
    assert re.search(r"local_time\(\{", call)


def test_a_chat_is_drafted_by_a_drafter_of_ones_own(service: Service) -> None:
    assert service.run("chat.py", "The gateway").endswith("mode datacenter\n")
    with running("custom_drafter.py", service.url, KEY):
        deadline = time.monotonic() + START_SECONDS
        while not attached_agents(service):
            assert time.monotonic() < deadline, "the agent did not attach"
            time.sleep(0.05)
        said = service.run("chat.py", "The gateway")
    assert re.search(r"tokens, mode (edge|mixed)\n$", said)
