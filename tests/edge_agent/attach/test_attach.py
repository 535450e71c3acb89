"""Attaching: the greeting, when the agent connects again, when it gives up, and how it detaches."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from edge_agent.attach import attachment
from edge_agent.attach import connection as link
from edge_agent.attach.address import agent_url
from edge_agent.attach.errors import AttachRejected
from edge_agent.drafters.interface import INCOMPLETE, CombinedDrafter, DraftRequest, Proposal
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edgedraft import wire
from edgedraft.wire import AgentWelcome, Open
from tests.edge_agent.scripted_gateway import GREEDY, Attached, ScriptedGateway, ScriptedSession, attached, until

VOCAB = 97
SAID = [11, 12, 13, 14, 15, 16, 17, 18, 19]
SOON = 120.0


def lookup(vocab_size: int) -> PromptLookupDrafter:
    return PromptLookupDrafter()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "FIRST_BACKOFF", 0.05)


async def drafts(gateway: ScriptedGateway) -> bool:
    """Whether the attached agent drafts for a session that is opened now."""
    session = await gateway.open([*SAID, 1, 2, *SAID[:4]], SAID[4:])
    with suppress(TimeoutError):
        await until(lambda: len(session.tree) > 2, SOON)
    return len(session.tree) > 2


async def test_it_says_who_it_is_with_its_key_in_the_header() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lookup) as agent:
        assert await drafts(gateway)
        assert agent.watch.names == ["agent-1"]
    assert gateway.keys == ["Bearer secret"]
    assert gateway.hellos == [wire.Hello(wire.PROTOCOL, "test", "f1", "drafter", 8)]
    assert gateway.closes == [(1000, "detached")]


async def test_messages_that_come_with_the_welcome_are_not_lost() -> None:
    async with ScriptedGateway(VOCAB) as gateway:
        prompt = [*SAID, 1, 2, *SAID[:4]]
        opened = Open(1, prompt, GREEDY, 9, window=8)
        gateway.sessions[1] = ScriptedSession(gateway, opened, SAID)
        gateway.welcome = [*gateway.welcome, opened]
        async with attached(gateway, lookup):
            await gateway.sessions[1].nodes(3)


async def test_it_comes_back_when_the_gateway_drops_it_and_drafts_again() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lookup) as agent:
        assert await drafts(gateway)
        gateway.connections[0].transport.abort()
        await gateway.attached(2)
        assert await drafts(gateway)
        await gateway.connections[1].close(1012, "restart")
        await gateway.attached(3)
        assert await drafts(gateway)
        assert len(agent.watch.names) == 3
        assert list(agent.stats.snapshot().sessions) == [3], "sessions of a lost link are gone"


async def test_a_gateway_that_goes_in_good_order_is_left_at_once_and_is_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachment, "FIRST_BACKOFF", 60.0)
    monkeypatch.setattr(attachment, "MOVED_TOO_SOON", 0.0)
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lookup) as agent:
        for times in (1, 2, 3):
            await gateway.connections[-1].close(wire.MOVE, "another one answers")
            await gateway.attached(times + 1)
            assert await drafts(gateway)
        assert agent.watch.losses == []
        assert agent.watch.moves == ["another one answers"] * 3
        monkeypatch.setattr(attachment, "MOVED_TOO_SOON", 60.0)
        await gateway.connections[-1].close(wire.MOVE, "for ever")
        await until(lambda: agent.watch.losses == ["for ever"])


async def test_it_says_why_it_was_closed() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lookup) as agent:
        await gateway.connections[0].close(wire.TOO_FAST, "more messages than there was news to draft for")
        await gateway.attached(2)
        assert "4430" in agent.watch.losses[0]
        assert "more messages than" in agent.watch.losses[0]


async def test_it_waits_for_a_gateway_that_is_not_there_yet() -> None:
    async with ScriptedGateway(VOCAB, status=503) as gateway:
        agent = Attached(gateway, lookup)
        await until(lambda: len(gateway.keys) >= 3)
        gateway.status = 0
        await gateway.attached()
        agent.task.cancel()
        await asyncio.wait([agent.task])
    assert "it answers HTTP 503" in agent.watch.losses
    nobody_there = asyncio.ensure_future(attachment.stay_attached(agent.agent))
    await until(lambda: sum("Connect call failed" in why for why in agent.watch.losses) >= 2)
    nobody_there.cancel()
    await asyncio.wait([nobody_there])


async def test_waits_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.wait.random.uniform", lambda low, high: waits.append(high) or 0.0)
    async with ScriptedGateway(VOCAB, status=503) as gateway:
        monkeypatch.setattr(attachment, "FIRST_BACKOFF", 0.5)
        monkeypatch.setattr(attachment, "STABLE_SECONDS", -1.0)
        agent = Attached(gateway, lookup)
        await until(lambda: len(waits) >= 9)
        agent.task.cancel()
        await asyncio.wait([agent.task])
    assert waits[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1", wire.BAD_FRAME),
        ("hello", wire.BAD_FRAME),
        (wire.encode_frame([wire.Hello(wire.PROTOCOL)]), wire.BAD_FRAME),
        (wire.encode_frame([AgentWelcome(wire.PROTOCOL, "a", "m", 5, 5)]), wire.VIOLATION),
    ],
)
async def test_a_frame_that_breaks_the_protocol_costs_the_link_and_not_the_process(
    frame: bytes | str, code: int
) -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lookup):
        await gateway.send_raw(frame)
        await gateway.attached(2)
        assert await drafts(gateway)
        assert gateway.closes[0][0] == code


@pytest.mark.parametrize("welcome", [[], [Open(1, [1], GREEDY, 5)], [AgentWelcome(wire.PROTOCOL, "a", "m", 5, 5)] * 2])
async def test_a_wrong_welcome_costs_the_link(welcome: list[AgentWelcome | Open]) -> None:
    async with ScriptedGateway(VOCAB) as gateway:
        good, gateway.welcome = gateway.welcome, welcome
        agent = Attached(gateway, lookup)
        await until(lambda: len(gateway.closes) >= 1)
        gateway.welcome = good
        await until(lambda: len(agent.watch.names) >= 1)
        agent.task.cancel()
        await asyncio.wait([agent.task])
    assert gateway.closes[0][0] == wire.VIOLATION


async def test_silence_instead_of_a_welcome_costs_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SETTINGS", replace(link.SETTINGS, greeting_timeout=0.05))

    async def mute(gateway: ScriptedGateway, connection: ServerConnection) -> None:
        await connection.wait_closed()

    monkeypatch.setattr(ScriptedGateway, "greeted", mute)
    async with ScriptedGateway(VOCAB) as gateway:
        agent = Attached(gateway, lookup)
        await until(lambda: len(gateway.hellos) >= 2)
        agent.task.cancel()
        await asyncio.wait([agent.task])


@pytest.mark.parametrize(
    ("status", "close_code", "protocol", "advice"),
    [
        (401, 0, 1, "keys create"),
        (403, 0, 1, "--scopes edge"),
        (0, wire.UNAUTHORIZED, wire.PROTOCOL, "keys create"),
        (0, wire.FORBIDDEN, wire.PROTOCOL, "--scopes edge"),
        (0, wire.TOKENIZER_MISMATCH, wire.PROTOCOL, "--draft-model"),
        (0, wire.VERSION, wire.PROTOCOL, "install the version"),
        (0, 0, wire.PROTOCOL + 1, "install the version"),
    ],
)
async def test_what_will_not_change_is_not_tried_again(
    status: int, close_code: int, protocol: int, advice: str
) -> None:
    async with ScriptedGateway(VOCAB, status, close_code, protocol=protocol) as gateway:
        agent = Attached(gateway, lookup)
        with pytest.raises(AttachRejected, match=advice):
            await asyncio.wait_for(agent.task, SOON)
        assert len(gateway.keys) == 1


@pytest.mark.parametrize("close_code", [wire.TOO_MANY, wire.VIOLATION, wire.TIMEOUT, 1001, 1011])
async def test_other_closes_are_tried_again(close_code: int) -> None:
    async with ScriptedGateway(VOCAB, close_code=close_code) as gateway:
        agent = Attached(gateway, lookup)
        await until(lambda: len(gateway.hellos) >= 2)
        agent.task.cancel()
        await asyncio.wait([agent.task])


async def test_it_ends_soon_though_a_step_takes_long() -> None:
    class Slow(CombinedDrafter):
        def __init__(self, vocab_size: int) -> None:
            super().__init__([])
            self.busy = False
            slow.append(self)

        def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
            self.busy = True
            release.wait(120)
            return [INCOMPLETE for _ in requests]

    slow: list[Slow] = []
    release = threading.Event()
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Slow) as agent:
        await gateway.open([1], [2])
        await until(lambda: bool(slow) and slow[0].busy)
        agent.task.cancel()
        await asyncio.wait([agent.task], timeout=SOON)
        assert agent.task.done(), "it waits for the step, which goes on until it is released"
        release.set()
    assert gateway.closes == [(1000, "detached")]


async def test_a_drafting_thread_that_fails_costs_the_link(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object, message: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("broken")

    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lookup):
        monkeypatch.setattr("edge_agent.drafting.loop.DraftingLoop._handle", fail)
        await gateway.open([1], [2])
        await gateway.attached(2)
        assert await drafts(gateway)
    assert "broken" in caplog.text


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/agent"),
        ("https://gateway.example.com", "wss://gateway.example.com/v1/agent"),
        ("https://gateway.example.com/", "wss://gateway.example.com/v1/agent"),
        ("https://example.com/draft/v1/", "wss://example.com/draft/v1/agent"),
        ("wss://example.com:444/v1/agent", "wss://example.com:444/v1/agent"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/agent"),
    ],
)
def test_addresses_as_people_write_them(given: str, dialled: str) -> None:
    assert agent_url(given) == dialled


@pytest.mark.parametrize(
    "given", ["gateway.example.com", "ftp://example.com", "https://", "http://a:b", "http://[x", ""]
)
def test_no_address(given: str) -> None:
    with pytest.raises(AttachRejected, match="https://gateway"):
        agent_url(given)


async def run(url: str, draft_model: str = "none") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgedraft.cli", "attach", url, "--key", "secret"),
        *("--draft-model", draft_model, "--name", "laptop", "--kv-tokens", "512", "--no-polite"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("with_model", [False, True])
async def test_the_command_attaches_and_a_signal_detaches_it_in_good_order(
    number: signal.Signals, with_model: bool, target: Path
) -> None:
    async with ScriptedGateway(VOCAB) as gateway:
        process = await run(gateway.url, str(target) if with_model else "none")
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), SOON)
        assert line.decode() == f"edgedraft agent attached agent-1 to {gateway.url}\n"
        assert await drafts(gateway)
        process.send_signal(number)
        _, said = await asyncio.wait_for(process.communicate(), SOON)
        assert process.returncode == 0
        assert b"Traceback" not in said
        await until(lambda: bool(gateway.closes))
    assert gateway.closes == [(1000, "detached")]
    [hello] = gateway.hellos
    assert (hello.name, hello.max_sessions) == ("laptop", 8)
    assert (hello.drafter == "prompt lookup") == (hello.fingerprint == "") == (not with_model)


@pytest.mark.parametrize(
    ("status", "close_code", "advice"),
    [(401, 0, "does not know this key"), (0, wire.TOKENIZER_MISMATCH, "pass --draft-model with")],
)
async def test_the_command_ends_with_advice_when_it_is_refused(status: int, close_code: int, advice: str) -> None:
    async with ScriptedGateway(VOCAB, status, close_code) as gateway:
        process = await run(gateway.url)
        out, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert out == b""
    last = said.decode().strip().splitlines()[-1]
    assert last.startswith("edgedraft attach: ")
    assert advice in last
    assert "secret" not in said.decode()
