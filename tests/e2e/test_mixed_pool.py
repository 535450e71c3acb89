"""A pool of both engines: when either verifier is killed mid-stream, the other one continues with the same text."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from openai import OpenAI

from edgedraft.local.processes import Supervisor
from loadtest.benchmarks.quick import verifier_counters
from tests.e2e.conftest import CASES, KEY, Answer, Service
from tests.support.waiting import wait_until

pytest.importorskip("vllm", reason="runs in the environment of `make test-vllm`")

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

ENGINES = {"vllm": ("--engine", "vllm", "--", "--enforce-eager"), "transformers": ("--engine", "transformers")}
MIXED = CASES[::3]
TOKENS = 48


@pytest.mark.parametrize("lost", ENGINES)
def test_a_session_goes_on_at_a_verifier_of_the_other_engine(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEDRAFT_ENGINE", raising=False)
    monkeypatch.delenv("EDGEDRAFT_ENGINE_ARGS", raising=False)
    with Supervisor(KEY, tmp_path) as stack:
        common = ("--threads", "1", "--dtype", "float32", "--kv-tokens", "8192", "--port", "0")
        children = {name: stack.launch_verifier(*common, *flags) for name, flags in ENGINES.items()}
        urls = {name: stack.wait_ready(child) for name, child in children.items()}
        database = f"sqlite+aiosqlite:///{tmp_path}/gateway.db"
        stack.start_gateway(*urls.values(), flags=("--port", "0", "--database", database))
        stack.wait_for_verifier()
        stack.start_agent("--threads", "1", "--no-polite")
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0, timeout=300)
        service = Service(stack, children[lost], client, client.models.list().data[0].id)
        begun = {name: committed(url) for name, url in urls.items()}
        whole = [answer.text for answer in service.ask_all(MIXED, streams=4, tokens=TOKENS)]
        assert all(committed(url) > begun[name] for name, url in urls.items()), "both engines took sessions"
        before, got = committed(urls[lost]), list[Answer]()
        clients = threading.Thread(target=lambda: got.extend(service.ask_all(MIXED, streams=4, tokens=TOKENS)))
        clients.start()
        wait_until(lambda: committed(urls[lost]) >= before + 10 or not clients.is_alive(), 300)
        assert clients.is_alive(), "the streams ended before the verifier had a part in them"
        children[lost].popen.kill()
        clients.join(300)
        assert [answer.text for answer in got] == whole


def committed(url: str) -> float:
    return verifier_counters(url)["edgedraft_verifier_tokens_total"]
