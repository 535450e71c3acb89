"""A hostile gateway: what the agent allocates for it is bounded, and its messages are displayed as plain text."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from http import HTTPStatus

import msgspec
import pytest
from rich.console import Console
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from edge_agent.attach import attachment
from edge_agent.attach import connection as link
from edge_agent.desktop.live_view import LiveView
from edge_agent.drafters.interface import Drafter
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.mailbox import INBOX_BYTES, Mailbox
from edge_agent.drafting.stats import StatsCollector
from edgedraft import wire
from edgedraft.wire import AgentWelcome, Close, Hello, Open
from tests.edge_agent.scripted_gateway import GREEDY, ScriptedGateway, attached, until

VOCAB = 97


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "FIRST_BACKOFF", 0.05)


def welcome(**change: object) -> AgentWelcome:
    return msgspec.structs.replace(AgentWelcome(wire.PROTOCOL, "agent-1", "tiny", VOCAB, 8), **change)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 2**31},
        {"vocab_size": wire.MAX_VOCAB + 1},
        {"vocab_size": 0},
        {"max_sessions": -1},
        {"model": "x" * 300},
    ],
)
async def test_a_welcome_out_of_bounds_makes_no_drafter(change: dict[str, object]) -> None:
    """Noise and logits have a column a token: what a gateway says of its vocabulary is what an agent allocates."""
    made: list[int] = []

    def drafter(vocab_size: int) -> Drafter:
        made.append(vocab_size)
        return PromptLookupDrafter()

    async with ScriptedGateway(VOCAB) as gateway:
        gateway.welcome = [welcome(**change)]
        async with attached(gateway, drafter) as agent:
            await until(lambda: bool(agent.watch.losses))
            assert not made
            gateway.welcome = [welcome()]
            await until(lambda: made == [VOCAB])


async def test_a_frame_larger_than_an_agent_reads_costs_the_link() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lambda _: PromptLookupDrafter()):
        await gateway.send_raw(bytes(wire.MAX_FRAME_TO_AGENT + 1))
        await gateway.attached(2)
        assert gateway.closes[0][0] == wire.TOO_LARGE


def test_the_largest_text_that_is_drafted_fits_in_a_frame() -> None:
    ids = [2**31 - 1] * (wire.MAX_AGENT_TEXT // 2)
    frame = wire.encode_frame([Open(2**53, ids, GREEDY, 1, ids, prediction=ids * 2)])
    assert len(frame) < wire.MAX_FRAME_TO_AGENT


async def test_what_waits_for_the_drafting_thread_is_bounded_in_bytes() -> None:
    tracemalloc.start()
    try:
        mailbox, frame = Mailbox(), wire.encode_frame([Open(1, [1] * (INBOX_BYTES // 4), GREEDY, 1)])

        async def flood() -> None:
            while True:
                await mailbox.deliver([m for m in wire.decode_to_agent(frame) if isinstance(m, Open)], len(frame))
                await asyncio.sleep(0)

        flooding = asyncio.ensure_future(flood())
        await asyncio.sleep(0.3)
        assert not flooding.done()
        assert tracemalloc.get_traced_memory()[0] < 20 * INBOX_BYTES
        assert len(mailbox.receive(wait=False)) <= 5
        await until(lambda: bool(mailbox.receive(wait=False)))  # once the inbox has been read
        flooding.cancel()
    finally:
        tracemalloc.stop()


async def test_what_a_gateway_calls_itself_is_only_text() -> None:
    escape = "\x1b]0;owned\x07\x1b[2J"
    out = io.StringIO()
    async with ScriptedGateway(VOCAB) as gateway:
        gateway.welcome = [welcome(agent=f"a{escape}", model=f"[/red][link=x]m{escape}"), Close(1)]
        async with attached(gateway, lambda _: PromptLookupDrafter()) as agent:
            await until(lambda: bool(agent.watch.names))
            await gateway.connections[0].close(wire.TOO_FAST, f"b{escape}")
            await until(lambda: bool(agent.watch.losses))
    assert all("\x1b" not in said and "\x07" not in said for said in (*agent.watch.names, *agent.watch.losses))
    view = LiveView("http://g", Hello(wire.PROTOCOL), StatsCollector(), Console(file=out, width=100))
    view.attached(welcome(model="[/red][link=x]m"))
    Console(file=out, width=100).print(view.render())
    assert "[/red][link=x]m" in out.getvalue()


async def test_a_redirect_to_another_host_takes_no_key_along() -> None:
    keys: list[str | None] = []

    async def nothing(connection: ServerConnection) -> None:
        await connection.wait_closed()

    def heard(connection: ServerConnection, request: Request) -> None:
        keys.append(request.headers.get("Authorization"))

    async with serve(nothing, "127.0.0.1", 0, process_request=heard) as elsewhere:
        there = f"ws://127.0.0.1:{next(iter(elsewhere.sockets)).getsockname()[1]}/"

        def away(connection: ServerConnection, request: Request) -> Response:
            answer = connection.respond(HTTPStatus.TEMPORARY_REDIRECT, "")
            answer.headers["Location"] = there
            return answer

        async with serve(nothing, "127.0.0.1", 0, process_request=away) as gateway:
            port = next(iter(gateway.sockets)).getsockname()[1]
            socket = await link.dial(f"ws://127.0.0.1:{port}/v1/agent", "secret")
            await socket.close()
    assert keys == [None]
