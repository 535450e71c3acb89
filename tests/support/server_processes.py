"""A verifier and a gateway as processes, whose HTTP ports, memory and logs a test looks at."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

KEY = "ed-static-test-key"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ServerUnderTest:
    """One process that listens."""

    name: str
    address: tuple[str, int]
    process: psutil.Process
    log: Path

    def memory(self) -> int:
        """Resident bytes."""
        return self.process.memory_info().rss


@contextmanager
def running_servers(folder: Path, *flags: str) -> Iterator[dict[str, ServerUnderTest]]:
    """By name, "verifier" (examples/custom_engine.py) and "gateway", with these flags; the key is KEY."""
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> ServerUnderTest:
            log = folder / f"{name}.log"
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("w")),
                text=True,
            )

            def stop() -> None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

            stack.callback(stop)
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            host, _, port = url.rpartition("/")[2].rpartition(":")
            return ServerUnderTest(name, (host, int(port)), psutil.Process(process.pid), log)

        verifier = start("verifier", "examples/custom_engine.py", "README.md")
        url = "ws://{}:{}".format(*verifier.address)
        database = f"sqlite+aiosqlite:///{folder / 'gateway.db'}"
        command = ("-m", "edgedraft.cli", "gateway", "--port", "0", "--verifier", url, "--key", KEY)
        gateway = start("gateway", *command, "--database", database, *flags)
        yield {"verifier": verifier, "gateway": gateway}


async def served_model(http: httpx.AsyncClient) -> str:
    """The name of the gateway's one model, once it has connected to its verifier."""
    while (await http.get("/readyz")).status_code != 200:  # noqa: ASYNC110  another process has no event
        await asyncio.sleep(0.05)
    return (await http.get("/v1/models")).json()["data"][0]["id"]
