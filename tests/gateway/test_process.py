"""The gateway as a process: what it prints, how much memory it takes, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.gateway.api.test_chat import user
from tests.gateway.conftest import KEY
from tests.support.scripted_verifier import ScriptedVerifier


async def test_a_process_from_start_to_end(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    verifier.step = 0.02
    began = time.monotonic()
    command = ["-m", "edgedraft.cli", "gateway", "--port", "0", "--verifier", verifier.url, "--key", KEY]
    command += ["--drain-grace", "2"]
    command += ["--database", f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("edgedraft gateway ready http://127.0.0.1:")
        assert time.monotonic() - began < 60  # about one second on an idle machine
        async with httpx.AsyncClient(
            base_url=line.split()[-1], headers={"authorization": f"Bearer {KEY}"}, trust_env=False, verify=False
        ) as http:
            body = {"model": "toy", "messages": user("say a secret word"), "stream": True}
            text = (await http.post("/v1/chat/completions", json=body)).text
            assert text.endswith("data: [DONE]\n\n")
            assert psutil.Process(process.pid).memory_info().rss < 300 << 20
            endless = body | {"messages": user("babble"), "max_tokens": 1500}
            async with http.stream("POST", "/v1/chat/completions", json=endless) as response:
                lines = response.aiter_lines()
                await anext(lines)
                process.send_signal(signal.SIGTERM)
                while (ready := await http.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
                assert ready.json() == {"status": "draining"}
                refused = await http.post("/v1/chat/completions", json=body)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
                assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
                last = [line async for line in lines if line]
        assert last[-1] == "data: [DONE]"
        assert json.loads(last[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert len(last) > 50  # it had some seconds of grace
        async with asyncio.timeout(60):
            rest, log = await process.communicate()
        assert process.returncode == 0
        assert rest == b""
        assert b"outcome=finished" in log
        assert b"outcome=cancelled" in log
        assert b"secret" not in log
        assert b"Traceback" not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_it_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, gateway.main, gateway.cli.keys; print([m for m in sys.modules if m in ('torch', 'transformers')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("port", ["-1", "70000", "x"])
def test_a_bad_setting_is_one_line_and_a_2(port: str) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "edgedraft.cli", "gateway", "--port", port], capture_output=True, text=True, check=False
    )
    assert out.returncode == 2
    assert out.stdout == ""
    assert len(out.stderr.strip().splitlines()) == 1


async def test_a_request_that_is_prepared_when_the_grace_ends_is_a_503(tmp_path: Path) -> None:
    command = ["-m", "edgedraft.cli", "gateway", "--port", "0", "--verifier", "ws://127.0.0.1:1", "--key", KEY]
    command += ["--drain-grace", "0.2", "--database", f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        url = (await process.stdout.readline()).decode().split()[-1]
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20) as http:
            body = {"model": "toy", "messages": user("hi")}
            waiting = asyncio.create_task(http.post("/v1/chat/completions", json=body))  # for a first verifier
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        async with asyncio.timeout(60):
            _, log = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_full_collection_does_not_look_through_what_was_loaded(tmp_path: Path) -> None:
    """With all modules that takes more than the 20 ms that the event loop may be held for."""
    code = f"""
import gc
from gateway import main
from gateway.settings import GatewaySettings

def serve(*parts):
    print(gc.get_freeze_count(), len(gc.get_objects()))

main.serve = serve
main.main(GatewaySettings(verifier=["ws://127.0.0.1:1"], key={KEY!r}, database="sqlite+aiosqlite:///{tmp_path}/a.db"))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    frozen, looked_through = map(int, ran.stdout.split())
    assert frozen > 50_000
    assert looked_through < 5_000
