"""Network partitions and restarted processes: streams continue, agents reconnect, and memory does not grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from openai import OpenAI

from edgedraft.local.processes import ManagedProcess, Supervisor
from tests.conftest import THOROUGH
from tests.e2e.conftest import CASES, KEY, VERIFIER, Answer, Case, Service
from tests.support.partition import Partition

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

AGENT = ("--threads", "1", "--no-polite")  # it is to draft on a machine that is busy, too
STREAMED = 160
GROWTH = 64 << 20  # bytes that a process may gain by what a test does to it
CASE = next(case for case in CASES if case.temperature == 0)


@pytest.fixture(scope="module")
def far_agent(service: Service) -> Iterator[tuple[Partition, ManagedProcess]]:
    """An agent whose link can be cut."""
    with Partition(urlsplit(service.stack.url).port or 0) as link:
        child = service.stack.start("attach", f"http://127.0.0.1:{link.port}", *AGENT)
        yield link, child
        child.stop()
        service.stack.processes.remove(child)


def resident(*children: ManagedProcess) -> list[int]:
    return [psutil.Process(child.popen.pid).memory_info().rss for child in children]


def until_drafted(service: Service, seconds: float) -> None:
    """Send requests until drafts of an agent are accepted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.ask(CASE, tokens=24, endless=True).accepted:
            return
        time.sleep(0.2)
    raise AssertionError("no agent came back")


def while_streaming(service: Service, case: Case, tokens: int, act: Callable[[], None]) -> Answer:
    """The answer to a request during which `act` is called, after the first chunks."""
    got: list[Answer] = []
    started = threading.Event()
    client = threading.Thread(
        target=lambda: got.append(service.ask(case, tokens=tokens, endless=True, started=started))
    )
    client.start()
    assert started.wait(240)
    assert client.is_alive(), "the stream was over before anything happened"
    act()
    client.join(240)
    assert got, "the stream ended as it should"
    return got[0]


@pytest.mark.parametrize("seconds", [10.0, *([1.0, 60.0] if THOROUGH else [])])
def test_a_network_that_is_lost_for_a_while_costs_no_stream(
    service: Service, far_agent: tuple[Partition, ManagedProcess], seconds: float
) -> None:
    link, agent = far_agent
    whole = service.ask(CASE, edge=False, tokens=STREAMED, endless=True)
    until_drafted(service, 400)
    gateway = next(child for child in service.stack.processes if child.arguments[0] == "gateway")
    before = resident(gateway, agent)
    healer = threading.Timer(seconds, link.heal)

    def lose() -> None:
        link.cut()
        healer.start()

    assert while_streaming(service, CASE, STREAMED, lose).text == whole.text
    healer.join()
    until_drafted(service, 400)
    grown = [after - earlier for after, earlier in zip(resident(gateway, agent), before, strict=True)]
    assert max(grown) < GROWTH


@pytest.fixture
def private(tmp_path: Path, service: Service) -> Iterator[tuple[Service, Callable[[str], None]]]:
    """Its own verifier, gateway and agent, and a function that kills the verifier or gateway and restarts it."""
    with Supervisor(KEY, tmp_path) as stack:
        verifier = stack.start_verifier(*VERIFIER)
        flags = ("--port", "0", "--open-timeout", "200", "--database", f"sqlite+aiosqlite:///{tmp_path}/gateway.db")
        gateway = stack.start_gateway(verifier.address, flags=flags)
        running = {"verifier": verifier, "gateway": gateway}
        stack.wait_for_verifier()
        stack.start_agent(*AGENT)
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0, timeout=300)

        def restart(name: str) -> None:
            running[name].popen.kill()
            running[name].popen.wait()
            running[name] = stack.restart(running[name])
            stack.wait_ready(running[name])

        yield Service(stack, verifier, client, service.model), restart


def test_a_verifier_or_a_gateway_that_is_killed_and_started_again(
    private: tuple[Service, Callable[[str], None]],
) -> None:
    service, restart = private
    whole = service.ask(CASE, edge=False, tokens=120, endless=True)
    until_drafted(service, 400)
    answer = while_streaming(service, CASE, 120, lambda: restart("verifier"))
    assert answer.text == whole.text, "begun at the verifier that was killed, finished at its successor"
    until_drafted(service, 400)
    restart("gateway")
    service.stack.wait_for_verifier()
    until_drafted(service, 400)
