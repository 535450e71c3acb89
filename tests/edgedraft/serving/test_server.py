"""Stopping a served app: it drains first, a second signal ends the drain, and neither is a failure."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

APP = """
import asyncio, sys
from edgedraft.serving.server import serve

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

async def drain():
    print("draining", flush=True)
    await asyncio.sleep(float(sys.argv[1]))
    print("drained", flush=True)

serve(app, "127.0.0.1", 0, lambda at: at, 1 << 16, drain=drain)
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", APP, request.param], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def get(at: str) -> bytes:
    with urllib.request.urlopen(f"http://{at}/", timeout=60) as response:
        return response.read()


@pytest.mark.parametrize("process", ["0.3"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_while_requests_are_answered(process: subprocess.Popen[str], number: signal.Signals) -> None:
    at = line(process)
    assert get(at) == b"here"
    process.send_signal(number)
    assert line(process) == "draining"
    assert get(at) == b"here"
    assert line(process) == "drained"
    assert process.wait(60) == 0


@pytest.mark.parametrize("process", ["60"], indirect=True)
def test_a_second_signal_ends_the_drain(process: subprocess.Popen[str]) -> None:
    assert get(line(process)) == b"here"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "draining"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert time.monotonic() - began < 50
    assert line(process) == ""
