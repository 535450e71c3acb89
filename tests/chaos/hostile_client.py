"""A hostile client of the chaos test, a process of its own: tries to hold up everybody else with what it sends.

    python -m tests.chaos.hostile_client --gateway URL ... --verifier URL ... (the key in EDGEDRAFT_HOSTILE_KEY)

It repeats its attacks on one address after another until SIGTERM, then prints as JSON how often each was made and how
it was answered: HTTP statuses, "closed" for a connection that was closed on it, "left" for one that it gave up.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

MODEL = "smollm2-135m-instruct"
ATTACK_SECONDS = 5.0  # after which an attack is given up, and its connection dropped
PAUSE = 0.2  # seconds between two attacks
PATIENCE = 1.0  # seconds that a raw socket waits for room in its send buffer: a server that reads no further

ATTACKS = (
    "oversized_prompt",
    "endless_header",
    "endless_target",
    "endless_trailers",
    "empty_fragments",
    "unread_pongs",
    "many_tool_messages",
    "costly_schemas",
    "many_grammars",
)

_WITH_A_CHAT = frozenset({"oversized_prompt", "many_tool_messages", "costly_schemas", "many_grammars"})
_BIG = "7" * 8_000_000


@dataclass
class Attacks:
    """The attacks on one service. `gateways` and `verifiers` are (host, port)."""

    gateways: list[tuple[str, int]]
    verifiers: list[tuple[str, int]]
    key: str
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        """One attack after another, each on the next address, until it is cancelled."""
        for turn in itertools.count():
            for name in ATTACKS:
                addresses = self.gateways if name in _WITH_A_CHAT else self.gateways + self.verifiers
                attack: Callable[[tuple[str, int]], Awaitable[str]] = getattr(self, name)
                outcome = "left"
                with suppress(TimeoutError, OSError, httpx.HTTPError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(ATTACK_SECONDS):
                        outcome = await attack(addresses[turn % len(addresses)])
                self.outcomes.setdefault(name, Counter())[outcome] += 1
                await asyncio.sleep(PAUSE)

    async def oversized_prompt(self, address: tuple[str, int]) -> str:
        return await self._chat(address, messages=[{"role": "user", "content": _BIG}])

    async def many_tool_messages(self, address: tuple[str, int]) -> str:
        return await self._chat(address, messages=[{"role": "tool", "tool_call_id": "a", "content": ""}] * 150_000)

    async def costly_schemas(self, address: tuple[str, int]) -> str:
        """Twelve tools whose patterns take long to compile, and a client that does not wait for the answer."""
        patterns = [{"pattern": f"^(.*a.{{{n}}}b.*)*{next(self._numbers)}$"} for n in range(12, 24)]
        schema = {"type": "object", "properties": {"x": {"type": "string", "allOf": patterns}}, "required": ["x"]}
        tools = [
            {"type": "function", "function": {"name": f"f{n}", "strict": True, "parameters": schema}} for n in range(12)
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                return await self._chat(address, tools=tools, tool_choice="required")
        return "left"

    async def many_grammars(self, address: tuple[str, int]) -> str:
        """Grammars that are all different, each with texts that whoever remembers it has to keep."""
        statuses = Counter[str]()
        for _ in range(8):
            choices = [f"{next(self._numbers)} " + "x" * 200 for _ in range(200)]
            statuses[await self._chat(address, structured_outputs={"choice": choices}, max_tokens=1)] += 1
        return max(statuses, key=lambda status: statuses[status])

    async def endless_header(self, address: tuple[str, int]) -> str:
        return await self._flood(address, b"GET /health HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 65536)

    async def endless_target(self, address: tuple[str, int]) -> str:
        return await self._flood(address, b"GET /", b"a" * 65536)

    async def endless_trailers(self, address: tuple[str, int]) -> str:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        head += f"Authorization: Bearer {self.key}\r\n\r\n".encode()
        return await self._flood(
            address, head + b"2\r\n{}\r\n0\r\n", b"X-T: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1024
        )

    async def empty_fragments(self, address: tuple[str, int]) -> str:
        """A message that begins and is continued by nothing, for ever."""
        return await self._websocket_flood(address, b"\x02\x80\0\0\0\0", b"\x00\x80\0\0\0\0" * 8192)

    async def unread_pongs(self, address: tuple[str, int]) -> str:
        """Pings of 125 bytes, whose pongs are not read."""
        return await self._websocket_flood(address, b"", (b"\x89\xfd\0\0\0\0" + b"p" * 125) * 512)

    async def _chat(self, address: tuple[str, int], **request: object) -> str:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **request}
        async with httpx.AsyncClient(trust_env=False, timeout=ATTACK_SECONDS) as client:
            response = await client.post(
                f"http://{address[0]}:{address[1]}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {self.key}"},
            )
        return str(response.status_code)

    async def _websocket_flood(self, address: tuple[str, int], first: bytes, again: bytes) -> str:
        path = "/v1/agent" if address in self.gateways else "/v1/engine"
        nonce = base64.b64encode(os.urandom(16)).decode()
        handshake = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Authorization: Bearer {self.key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n"
        )
        async with _connected(address) as (reader, writer):
            writer.write(handshake.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                return head.split()[1].decode()
            return await _send_on(writer, first, again)

    async def _flood(self, address: tuple[str, int], first: bytes, again: bytes) -> str:
        async with _connected(address) as (reader, writer):
            outcome = await _send_on(writer, first, again)
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(PATIENCE):
                    head = await reader.read(64)
                    return head.split()[1].decode() if head.startswith(b"HTTP/") else outcome
            return outcome


@asynccontextmanager
async def _connected(
    address: tuple[str, int],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _send_on(writer: asyncio.StreamWriter, first: bytes, again: bytes) -> str:
    """Sends `again` until the connection ends or takes no more."""
    try:
        writer.write(first)
        while True:
            writer.write(again)
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
            await asyncio.sleep(0)
    except TimeoutError:
        return "left"
    except OSError:
        return "closed"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", action="append", default=[], type=_address)
    parser.add_argument("--verifier", action="append", default=[], type=_address)
    given = parser.parse_args()
    attacks = Attacks(given.gateway, given.verifier, os.environ["EDGEDRAFT_HOSTILE_KEY"])
    task = asyncio.create_task(attacks.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print("attacking", flush=True)
    with suppress(asyncio.CancelledError):
        await task
    print(json.dumps(attacks.outcomes), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
