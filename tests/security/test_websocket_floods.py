"""Attack: WebSocket frames that no application sees (fragments, pings, pongs), and peers that read nothing.

Against the gateway's and the verifier's endpoints, the replicas' port, and the dialling ends by a hostile server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edgedraft.links import websockets_transport
from edgedraft.links.link import Link
from edgedraft.links.outbox import Outbox
from edgedraft.links.settings import AGENT_TO_GATEWAY, GATEWAY_TO_VERIFIER, REPLICA, LinkSettings
from edgedraft.links.transport import TransportClosed
from edgedraft.local.processes import Supervisor
from edgedraft.serving import websocket_protocol
from edgedraft.wire import PROTOCOL, Hello, encode_frame
from gateway.agents.link import AgentLink
from gateway.observability import event_loop
from gateway.replicas.handshake import Handshake
from gateway.replicas.messages import CHALLENGE_HEADER, PATH
from tests.fuzz.parts import ScriptedEngine, toy_card
from tests.gateway.api.test_chat import complete, user
from tests.gateway.conftest import KEY, Gateway, running_gateway, valkey, valkey_process
from tests.gateway.replicas.test_replicas import SECRET, replicas
from tests.support.raw_websocket import BINARY, CONT, PING, PONG, RawWebSocket, dial, frame, serving
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until
from tests.verifier.running_server import running
from verifier.scheduling.scheduler import SchedulerLimits

__all__ = ["valkey", "valkey_process"]  # fixtures

TOKEN = "a-verifier-token"
HELLO = frame(BINARY, encode_frame([Hello(PROTOCOL)]))
LIMITS = SchedulerLimits(step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.01, wait_share=1.0)
FLOODS = {
    "empty fragments": lambda masked: (
        frame(BINARY, fin=False, masked=masked) + frame(CONT, fin=False, masked=masked) * 200_000
    ),
    "pings": lambda masked: frame(PING, bytes(125), masked=masked) * 20_000,
    "pongs": lambda masked: frame(PONG, b"", masked=masked) * 100_000,
}


def agents(gateway: Gateway) -> list[AgentLink]:
    return gateway.state.agent_endpoint.registry.attached()


async def open_gateway(folder: Path, valkey: ValkeyServer) -> AsyncIterator[tuple[str, dict[str, str]]]:
    async with ScriptedVerifier() as verifier, running_gateway(folder, verifier) as gateway:
        yield gateway.url.replace("http", "ws") + "/v1/agent", {"Authorization": f"Bearer {KEY}"}
        assert (await complete(gateway, messages=user("say hi")))["choices"][0]["message"]["content"] == "hi"


async def open_verifier(folder: Path, valkey: ValkeyServer) -> AsyncIterator[tuple[str, dict[str, str]]]:
    card = toy_card()
    engine = ScriptedEngine(card.vocab_size, card.context_length, 32)
    with running(engine, LIMITS, card, 64, TOKEN) as server:
        yield server.url + "/v1/engine", {"Authorization": f"Bearer {TOKEN}"}


async def open_replica(folder: Path, valkey: ValkeyServer) -> AsyncIterator[tuple[str, dict[str, str]]]:
    async with ScriptedVerifier() as verifier, replicas(folder, valkey, verifier, 1) as (gateway,):
        assert gateway.state.replicas
        url = gateway.state.replicas._endpoint.address
        yield url + PATH, {CHALLENGE_HEADER: Handshake(SECRET).challenge(url)[0]}


@pytest.fixture(params=[open_gateway, open_verifier, open_replica], ids=["gateway", "verifier", "replica"])
async def endpoint(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: ValkeyServer
) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """Each server's WebSocket URL, and headers that it accepts."""
    async for found in request.param(tmp_path, valkey):
        yield found


async def cut_off(attacker: RawWebSocket, data: bytes) -> bool:
    """Whether the peer cuts the connection when it is sent this."""
    try:
        await attacker.send(data)
        await attacker.read_until_cut()
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_is_aborted_by_every_server(endpoint: tuple[str, dict[str, str]], flood: str) -> None:
    url, headers = endpoint
    attacker = await dial(url, headers)
    assert attacker.status == 101
    assert await cut_off(attacker, HELLO * (not url.endswith(PATH)) + FLOODS[flood](True))
    attacker.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway in a process of its own, with the event loop that it has there."""
    folder = tmp_path_factory.mktemp("gateway")
    with Supervisor(KEY, folder, 60, {"EDGEDRAFT_DATABASE": f"sqlite:///{folder}/gateway.db"}) as stack:
        yield stack.start_gateway("ws://127.0.0.1:1").address


@pytest.mark.parametrize("flood", FLOODS)
async def test_so_it_is_by_a_gateway_in_a_process_of_its_own(process: str, flood: str) -> None:
    attacker = await dial(process.replace("http", "ws") + "/v1/agent", {"Authorization": f"Bearer {KEY}"})
    assert attacker.status == 101
    assert await cut_off(attacker, HELLO + FLOODS[flood](True))
    attacker.close()
    stranger = await dial(process.replace("http", "ws") + "/v1/agent")
    assert stranger.status == 401
    stranger.close()


async def test_frames_right_behind_the_handshakes_request_are_not_read(endpoint: tuple[str, dict[str, str]]) -> None:
    url, _ = endpoint
    stranger = await dial(url, {}, after=frame(PING, b"x") * 2000)
    assert stranger.status != 101
    await stranger.read_until_cut()
    stranger.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ASGI ends wait less for a peer that does not read."""
    settings = replace(websocket_protocol.SETTINGS, write_timeout=0.3, close_timeout=0.2)
    monkeypatch.setattr(websocket_protocol, "SETTINGS", settings)


async def test_a_peer_that_pings_and_reads_nothing_is_aborted(
    impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pings are few enough to be allowed, but their answers are never read."""
    limits = replace(websocket_protocol.SETTINGS.frames, control_burst=1 << 20)
    monkeypatch.setattr(websocket_protocol, "SETTINGS", replace(websocket_protocol.SETTINGS, frames=limits))
    async with (
        ScriptedVerifier() as verifier,
        running_gateway(tmp_path, verifier, small_buffers=True, ping_seconds=600.0) as gateway,
    ):
        url = gateway.url.replace("http", "ws") + "/v1/agent"
        attacker = await dial(url, {"Authorization": f"Bearer {KEY}"}, receive_buffer=1 << 12)
        await attacker.send(HELLO)
        await until(lambda: agents(gateway))
        attacker.reader._transport.pause_reading()  # type: ignore[attr-defined]
        with suppress(ConnectionError, TimeoutError):
            for _ in range(1000):
                await attacker.send(frame(PING, bytes(125)) * 100, seconds=2)
        await until(lambda: not agents(gateway))


async def test_a_closed_link_whose_peer_does_not_read_is_dropped(impatient: None, tmp_path: Path) -> None:
    """A close waits behind the write buffer, which such a peer leaves full."""
    async with ScriptedVerifier() as verifier, running_gateway(tmp_path, verifier, ping_seconds=0.2) as gateway:
        attacker = await dial(gateway.url.replace("http", "ws") + "/v1/agent", {"Authorization": f"Bearer {KEY}"})
        await attacker.send(HELLO)
        await until(lambda: agents(gateway))
        attacker.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: not agents(gateway))
        attacker.close()


async def run_link(url: str, settings: LinkSettings) -> None:
    """A dialling end that says hello and takes frames until its link ends."""
    link = Link(await websockets_transport.dial(url, settings), settings)
    try:

        async def ignore(frame: bytes | str) -> None:
            pass

        outbox = Outbox(settings)
        outbox.put(Hello(PROTOCOL))
        await link.run(outbox, ignore)
    finally:
        await link.close()


@pytest.mark.parametrize(
    "settings", [AGENT_TO_GATEWAY, GATEWAY_TO_VERIFIER, REPLICA], ids=["agent", "gateway", "replica"]
)
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_is_aborted_by_every_dialling_end(settings: LinkSettings, flood: str) -> None:
    async def attack(end: RawWebSocket) -> None:
        await end.send(FLOODS[flood](False))
        await end.read_until_cut()

    async with serving(attack) as url, asyncio.timeout(60):
        with pytest.raises(TransportClosed):
            await run_link(url, settings)


async def _silent(end: RawWebSocket) -> None:
    """Reads nothing, and keeps the connection."""
    await asyncio.sleep(600)


async def _closing(end: RawWebSocket) -> None:
    """Says goodbye, and keeps the connection."""
    await end.send(frame(8, b"\x03\xe8", masked=False))
    await asyncio.sleep(600)


async def _pinging(end: RawWebSocket) -> None:
    """Sends a ping now and then, and answers none."""
    while True:
        await end.send(frame(PING, b"x", masked=False))
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("behave", [_silent, _closing, _pinging])
async def test_a_server_that_only_keeps_the_connection_is_given_up(
    behave: Callable[[RawWebSocket], AsyncIterator[None]],
) -> None:
    settings = replace(AGENT_TO_GATEWAY, ping_interval=0.3, close_timeout=0.2, write_timeout=0.5)
    async with serving(behave) as url, asyncio.timeout(60):  # type: ignore[arg-type]
        with pytest.raises(TransportClosed):
            await run_link(url, settings)


async def test_closing_takes_its_time_though_the_peer_reads_nothing() -> None:
    settings = replace(AGENT_TO_GATEWAY, ping_interval=None, close_timeout=0.2, write_timeout=600.0)
    async with serving(_silent) as url, asyncio.timeout(60):
        transport = await websockets_transport.dial(url, settings)
        sending = asyncio.create_task(transport.send(bytes(1 << 26)))
        await asyncio.sleep(0.1)
        await transport.close(1000, "bye")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_refused_handshakes_log_no_errors(gateway_endpoint: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    url = gateway_endpoint.url.replace("http", "ws")
    for path, headers in (
        ("/v1/agent", {}),
        ("/v1/agent", {"Authorization": "Bearer nobody"}),
        ("/v1/nowhere", {}),
        *[("/v1/agent", {})] * 40,
    ):
        refused = await dial(url + path, headers)
        assert refused.status in (401, 403)
        await refused.read_until_cut()
    # A busy machine may have the gateway's watch warn of a held event loop.
    lines = [
        record
        for record in caplog.records
        if record.name.split(".")[0] in ("gateway", "edgedraft", "uvicorn") and record.name != event_loop.log.name
    ]
    assert not [record.getMessage() for record in lines if record.levelname not in ("INFO", "DEBUG")]
    assert 1 <= len([record for record in lines if "refused" in record.getMessage()]) <= 12


@pytest.fixture
async def gateway_endpoint(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with ScriptedVerifier() as verifier, running_gateway(tmp_path, verifier) as gateway:
        yield gateway


async def test_links_that_say_no_hello_are_bounded(
    gateway_endpoint: Gateway,
) -> None:
    url = gateway_endpoint.url.replace("http", "ws") + "/v1/agent"
    gateway_endpoint.state.agent_endpoint.greetings._limit = 3
    headers = {"Authorization": f"Bearer {KEY}"}
    mute = [await dial(url, headers) for _ in range(3)]
    assert [end.status for end in mute] == [101] * 3
    await until(lambda: gateway_endpoint.state.agent_endpoint.greetings.full)
    assert (await dial(url, headers)).status == 503
    mute[0].writer.write(HELLO)
    await until(lambda: not gateway_endpoint.state.agent_endpoint.greetings.full)
    assert (await dial(url, headers)).status == 101
    for end in mute:
        end.close()
