"""The WebSocket to the gateway: how it is dialled and greeted, and how frames pass between it and a mailbox.

Messages go to the drafting thread as they arrive, drafts go out as they are posted, all that wait in one frame. This
file decides what the end of a link means: Refused is for good, Lost is worth another try. It neither drafts nor dials
twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit, urlunsplit

from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from edge_agent.drafting.mailbox import Incoming, Mailbox
from edgedraft import wire
from edgedraft.wire import AgentWelcome, Hello, ToAgent, WireError

OPEN_SECONDS = 10.0
WELCOME_SECONDS = 10.0
CLOSE_SECONDS = 0.5
PING_SECONDS = 20.0
MEASURE_SECONDS = 5.0
COALESCE_SECONDS = 0.003  # after a frame of drafts: what is drafted meanwhile shares the next, which a gateway notices
PATH = "/v1/agent"

UNKNOWN_KEY = "the gateway does not know this key: pass one that `edgedraft keys create` printed"
NO_SCOPE = "this key may not attach agents: make one with `edgedraft keys create --scopes edge`"
# Close codes and HTTP statuses that will be the same next time, and what the person can do.
FINAL: dict[int, str] = {
    401: UNKNOWN_KEY,
    403: NO_SCOPE,
    wire.UNAUTHORIZED: UNKNOWN_KEY,
    wire.FORBIDDEN: NO_SCOPE,
    wire.TOKENIZER_MISMATCH: "the gateway's model has another tokenizer than this draft model: pass --draft-model with "
    "a small model of the same family, or --draft-model none to draft by prompt lookup alone",
    wire.VERSION: "the gateway speaks another version of the protocol: install the version of edgedraft that it runs",
}


class AttachRejected(Exception):
    """The gateway will never take this agent as it is; the message tells the person what to do."""


class LinkLost(Exception):
    """There is no link, or no longer; it may come back."""


class GatewayMoved(LinkLost):
    """The gateway is going and says so: another one takes this agent now."""


def agent_url(url: str) -> str:
    """The WebSocket address of a gateway given as people write it. Raises Refused."""
    wrong = AttachRejected(f"{url} is no gateway's URL: it looks like https://gateway.example.com")
    try:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}[parts.scheme]
        if not parts.hostname or parts.port == 0:
            raise wrong
    except (ValueError, KeyError):
        raise wrong from None
    base = parts.path.rstrip("/").removesuffix(PATH).removesuffix("/v1")
    return urlunsplit((scheme, parts.netloc, base + PATH, "", ""))


async def dial(url: str, key: str) -> ClientConnection:
    """An open WebSocket; TLS certificates are verified. Raises Refused or Lost."""
    try:
        return await connect(
            url,
            additional_headers={"Authorization": f"Bearer {key}"},
            max_size=wire.MAX_FRAME_TO_AGENT,
            max_queue=4,
            compression=None,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
        )
    except InvalidStatus as error:
        status = error.response.status_code
        if status in FINAL:
            raise AttachRejected(FINAL[status]) from None
        raise LinkLost(f"it answers HTTP {status}") from None
    except (OSError, TimeoutError, EOFError, WebSocketException) as error:
        raise LinkLost(str(error) or type(error).__name__) from None
    except ImportError as error:  # a SOCKS proxy is configured, and what it takes is not installed
        raise AttachRejected(str(error)) from None


async def greet(socket: ClientConnection, hello: Hello) -> tuple[AgentWelcome, list[Incoming]]:
    """Say hello; returns the welcome and what came with it. Raises Refused or Lost."""
    try:
        async with asyncio.timeout(WELCOME_SECONDS):
            await socket.send(wire.encode_frame([hello]))
            messages, _ = await _read(socket)
    except TimeoutError:
        raise LinkLost("it sends no welcome") from None
    except ConnectionClosed as closed:
        raise ended(closed) from None
    match messages:
        case [AgentWelcome() as welcome, *rest] if welcome.protocol == wire.PROTOCOL:
            return replace(welcome, agent=shown(welcome.agent), model=shown(welcome.model)), await _no_welcome(
                socket, rest
            )
        case [AgentWelcome(), *_]:
            raise AttachRejected(FINAL[wire.VERSION])
    await socket.close(wire.VIOLATION, "the first message must be a welcome")
    raise LinkLost("its first message is no welcome")


async def pump(socket: ClientConnection, mailbox: Mailbox, round_trip: Callable[[float], None]) -> None:
    """Carry messages both ways until the link is gone; `round_trip` is told its seconds now and then.

    Raises Refused or Lost; MailboxClosed when drafting ended.
    """
    carried = (_receive(socket, mailbox), _send(socket, mailbox), _measure(socket, round_trip))
    tasks = [asyncio.ensure_future(task) for task in carried]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except ConnectionClosed as closed:
        raise ended(closed) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ended(closed: ConnectionClosed) -> AttachRejected | LinkLost:
    """What a closed connection means."""
    if closed.rcvd is None:
        return LinkLost("the connection broke")
    if closed.rcvd.code in FINAL and closed.rcvd.code >= 4000:
        return AttachRejected(FINAL[closed.rcvd.code])
    if closed.rcvd.code == wire.MOVE:
        return GatewayMoved(shown(closed.rcvd.reason))
    return LinkLost(f"the gateway closed it: {shown(str(closed.rcvd))}")


def shown(text: str) -> str:
    """What a gateway wrote, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


async def _receive(socket: ClientConnection, mailbox: Mailbox) -> None:
    while True:
        messages, size = await _read(socket)
        await mailbox.deliver(await _no_welcome(socket, messages), size)


async def _send(socket: ClientConnection, mailbox: Mailbox) -> None:
    """The first draft after a rest goes out at once."""
    while True:
        await socket.send(wire.encode_frame(await mailbox.collect()))
        await asyncio.sleep(COALESCE_SECONDS)


async def _measure(socket: ClientConnection, round_trip: Callable[[float], None]) -> None:
    while True:
        round_trip(await (await socket.ping()))
        await asyncio.sleep(MEASURE_SECONDS)


async def _no_welcome(socket: ClientConnection, messages: Sequence[ToAgent]) -> list[Incoming]:
    """These messages, which must be about sessions. Raises Lost."""
    incoming = [message for message in messages if not isinstance(message, AgentWelcome)]
    if len(incoming) < len(messages):
        await socket.close(wire.VIOLATION, "a second welcome")
        raise LinkLost("it sent a second welcome")
    return incoming


async def _read(socket: ClientConnection) -> tuple[list[ToAgent], int]:
    """One frame's messages, and its bytes. A frame that breaks the protocol closes the link: raises Lost."""
    frame = await socket.recv()
    try:
        return wire.decode_to_agent(frame), len(frame)
    except WireError as error:
        await socket.close(error.code, error.reason)
        raise LinkLost(f"it sent a bad frame: {error.reason}") from None
