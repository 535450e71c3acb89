"""The openai package's own retries at a key's concurrency limit: it waits for Retry-After and tries again."""

from __future__ import annotations

import threading
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from edgedraft.local.processes import Supervisor
from loadtest.peers.gateways.process import start_stub

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

KEY = "retries-key"


def test_a_key_that_runs_too_much_is_tried_again_by_the_package(tmp_path: Path) -> None:
    verifier = start_stub("stub_verifier", "stub", "0.05", folder=tmp_path)
    try:
        with Supervisor(KEY, tmp_path) as stack:
            database = f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}"
            flags = ("--port", "0", "--database", database, "--max-sessions-per-key", "1")
            stack.start_gateway(verifier.read_url(), flags=flags)
            stack.wait_for_verifier()
            ask_beside_another(stack.url)
    finally:
        verifier.stop()


def ask_beside_another(url: str) -> None:
    patient, hasty = (OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=tries) for tries in (30, 0))
    begun = threading.Event()

    def occupy() -> None:
        for _ in patient.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "Talk."}], max_tokens=60, stream=True
        ):
            begun.set()

    other = threading.Thread(target=occupy)
    other.start()
    assert begun.wait(180)
    with pytest.raises(openai.RateLimitError) as refused:
        hasty.chat.completions.create(model="stub", messages=[{"role": "user", "content": "Me too."}], max_tokens=2)
    assert refused.value.code == "rate_limit_exceeded"
    assert float(refused.value.response.headers["retry-after"]) >= 1
    answer = patient.chat.completions.create(
        model="stub", messages=[{"role": "user", "content": "Me too."}], max_tokens=2
    )
    assert answer.choices[0].message.content
    other.join(180)
    assert not other.is_alive()
