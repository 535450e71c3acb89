"""Two gateways, a Valkey, a verifier and an agent as processes: drafts cross between replicas; one replica drains."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from openai import OpenAI

from edge_agent.attach.attachment import MOVED_TOO_SOON
from edgedraft.local.processes import ManagedProcess, Supervisor
from tests.e2e.conftest import CASES, KEY, Answer, Service
from tests.support.partition import Partition
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CASE = next(case for case in CASES if case.temperature == 0)
TOKENS = 64


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.stop()


def client_of(gateway: ManagedProcess, service: Service, stack: Supervisor) -> Service:
    client = OpenAI(base_url=f"{gateway.address}/v1", api_key=KEY, max_retries=0, timeout=120)
    return Service(stack, service.verifier, client, service.model)


def ready(gateway: ManagedProcess) -> bool:
    try:
        with urllib.request.urlopen(f"{gateway.address}/readyz", timeout=60):
            return True
    except OSError:
        return False


def until_paired(service: Service) -> None:
    """Send requests until one is drafted by an agent."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if service.ask(CASE, tokens=12, endless=True).mode != "datacenter":
            return
    raise AssertionError("no agent was found")


def test_an_agent_drafts_for_both_replicas_and_moves_when_its_own_goes(
    service: Service, valkey: ValkeyServer, tmp_path: Path
) -> None:
    whole = service.ask(CASE, edge=False, tokens=TOKENS, endless=True)
    shared = ("--redis", valkey.url, "--replica-secret", "secret of the end-to-end test", "--replica-port", "0")
    token = {"EDGEDRAFT_VERIFIER_TOKEN": service.stack.verifier_token}
    with Supervisor(KEY, tmp_path, env=token) as stack:
        pair = [
            stack.launch(
                *("gateway", "--port", "0", "--verifier", service.verifier.address, *shared),
                *("--database", f"sqlite+aiosqlite:///{tmp_path}/{name}.db", "--drain-grace", "60"),
            )
            for name in ("here", "there")
        ]
        for child in pair:
            child.wait_ready(300)
            wait_until(lambda child=child: ready(child), 300)
        here, there = (client_of(child, service, stack) for child in pair)
        ports = [urlsplit(child.address).port or 0 for child in pair]
        with Partition(ports[1]) as balancer:
            # Without a model, which would only take time to load: what it repeats is checked like any draft.
            alone = ("--draft-model", "none", "--no-past-outputs", "--no-polite")
            stack.start("attach", f"http://127.0.0.1:{balancer.port}", *alone)
            until_paired(here)
            time.sleep(MOVED_TOO_SOON)  # an agent that is asked to move sooner treats the gateway as lost
            got: list[Answer] = []
            started = [threading.Event(), threading.Event()]

            def read(replica: Service, event: threading.Event) -> None:
                got.append(replica.ask(CASE, tokens=TOKENS, endless=True, started=event))

            streams = [
                threading.Thread(target=read, args=arguments) for arguments in zip((here, there), started, strict=True)
            ]
            for stream in streams:
                stream.start()
            assert all(event.wait(120) for event in started)
            balancer.point(ports[0])
            pair[1].popen.terminate()
            for stream in streams:
                stream.join(120)
            assert [answer.text for answer in got] == [whole.text] * 2
            assert all(answer.mode != "datacenter" for answer in got)
            assert pair[1].popen.wait(30) == 0
            until_paired(here)
            # Read while the balancer stands: the agent tells when that goes, too.
            log = next(path for path in tmp_path.glob("*-attach.log")).read_text()
    assert "moving" in log
    assert "no gateway" not in log
