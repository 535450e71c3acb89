"""The agent's link to a gateway: connecting, greeting, and relaying between the gateway and a mailbox.

This module decides what the end of a link means: AttachRejected is final, LinkLost is worth another attempt. It neither
drafts nor connects twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace
from websockets.exceptions import InvalidStatus, WebSocketException

from edge_agent.attach.errors import FINAL, AttachRejected, GatewayMoved, LinkLost, TokenizerMismatch
from edge_agent.drafting.mailbox import Incoming, Mailbox
from edge_agent.foreign_text import printable
from edgedraft import wire
from edgedraft.links.link import Frame, Link
from edgedraft.links.outbox import Outgoing
from edgedraft.links.settings import AGENT_TO_GATEWAY
from edgedraft.links.transport import TransportClosed
from edgedraft.links.websockets_transport import WebSocketsTransport
from edgedraft.links.websockets_transport import dial as dial_websocket
from edgedraft.wire import AgentWelcome, Draft, Hello, ToAgent, WireError

SETTINGS = AGENT_TO_GATEWAY
PING_INTERVAL = 5.0  # seconds between two measurements of the round-trip time
COALESCE_SECONDS = 0.003  # after a frame of drafts, drafts of this long share the next: fewer frames for the gateway


async def dial(url: str, key: str) -> GatewayLink:
    """Connect; TLS certificates are verified. Raises AttachRejected or LinkLost."""
    try:
        return GatewayLink(await dial_websocket(url, SETTINGS, {"Authorization": f"Bearer {key}"}))
    except InvalidStatus as error:
        status = error.response.status_code
        if status in FINAL:
            raise AttachRejected(FINAL[status]) from None
        raise LinkLost(f"it answers HTTP {status}") from None
    except (OSError, TimeoutError, EOFError, WebSocketException) as error:
        raise LinkLost(str(error) or type(error).__name__) from None
    except ImportError as error:  # a SOCKS proxy is configured, and the package that it needs is not installed
        raise AttachRejected(str(error)) from None


class GatewayLink:
    """An open link to a gateway."""

    def __init__(self, transport: WebSocketsTransport) -> None:
        self._transport = transport
        self._link = Link(transport, SETTINGS)

    async def greet(self, hello: Hello) -> tuple[AgentWelcome, list[Incoming]]:
        """Send `hello`; returns the welcome and the messages in its frame. Raises AttachRejected or LinkLost."""
        try:
            match wire.decode_to_agent(await self._link.greet(hello)):
                case [AgentWelcome() as welcome, *rest] if welcome.protocol == wire.PROTOCOL:
                    shown = replace(welcome, agent=printable(welcome.agent), model=printable(welcome.model))
                    return shown, _without_welcome(rest)
                case [AgentWelcome(), *_]:
                    raise AttachRejected(FINAL[wire.VERSION])
            raise WireError(wire.VIOLATION, "the first message must be a welcome")
        except TimeoutError:
            raise LinkLost("it sends no welcome") from None
        except TransportClosed as closed:
            raise _meaning(closed) from None
        except WireError as error:
            raise await self._reject(error) from None

    async def run(self, mailbox: Mailbox, on_rtt: Callable[[float], None]) -> None:
        """Relay between the gateway and `mailbox` until the link ends; `on_rtt` gets round-trip times in seconds.

        Raises AttachRejected or LinkLost; MailboxClosed if drafting ended.
        """

        async def take_frame(frame: Frame) -> None:
            await mailbox.deliver(_without_welcome(wire.decode_to_agent(frame)), len(frame))

        async def measure_rtt() -> None:
            while True:
                on_rtt(await self._transport.ping())
                await asyncio.sleep(PING_INTERVAL)

        try:
            await self._link.run(CoalescedDrafts(mailbox), take_frame, measure_rtt())
        except TransportClosed as closed:
            raise _meaning(closed) from None
        except WireError as error:
            raise await self._reject(error) from None

    async def ping(self) -> float:
        """Returns one round-trip time in seconds. Raises AttachRejected or LinkLost."""
        try:
            return await self._transport.ping()
        except TransportClosed as closed:
            raise _meaning(closed) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._link.close(code, reason)

    async def _reject(self, error: WireError) -> LinkLost:
        """Close the link of a gateway that breaks the protocol."""
        await self._link.close(error.code, error.reason)
        return LinkLost(f"it broke the protocol: {error.reason}")


class CoalescedDrafts(Outgoing):
    """All drafts that wait in the mailbox, at most one frame per COALESCE_SECONDS; the first is sent at once."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._sent = False

    async def next_batch(self) -> Sequence[Draft]:
        """Called again when the previous batch has been sent. Raises MailboxClosed."""
        if self._sent:
            await asyncio.sleep(COALESCE_SECONDS)
        self._sent = True
        return await self._mailbox.collect()


def _meaning(closed: TransportClosed) -> AttachRejected | LinkLost:
    """What it means for the agent that the gateway closed the link."""
    if closed.code is None:
        return LinkLost("the connection broke")
    if closed.code == wire.TOKENIZER_MISMATCH:
        return TokenizerMismatch(FINAL[closed.code])
    if closed.code in FINAL and closed.code >= 4000:
        return AttachRejected(FINAL[closed.code])
    if closed.code == wire.MOVE:
        return GatewayMoved(printable(closed.reason))
    return LinkLost(f"the gateway closed it: {printable(str(closed))}")


def _without_welcome(messages: Sequence[ToAgent]) -> list[Incoming]:
    """These messages, which must be about sessions. Raises WireError VIOLATION for a second welcome."""
    incoming = [message for message in messages if not isinstance(message, AgentWelcome)]
    if len(incoming) < len(messages):
        raise WireError(wire.VIOLATION, "a second welcome")
    return incoming
