"""WebSockets under fuzzing, on real sockets: hostile frames for both servers' endpoints, beside honest peers.

Chats through the gateway, whose own link goes to the verifier that is attacked, must come back whole and the same. An
honest agent stays attached throughout. What a peer sends must not make either server log an error.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.protocol import OPEN

from edgedraft import wire
from edgedraft.wire import Hello
from tests.fuzz.endpoints import CHAT, KEY, Account, running_gateway, running_verifier, serving
from tests.fuzz.frames import Frames
from tests.fuzz.parts import toy_card
from tests.fuzz.websocket_frames import WebSocketFrames
from tests.support.raw_websocket import CLOSE, RawWebSocket, dial, frame

PIECES_PER_LINK = 40
LINKS_PER_CHAT = 20
CUT_SECONDS = 30.0  # in which a server must have ended a link that was to be closed
HEADERS = {"Authorization": f"Bearer {KEY}"}
HELLO = frame(2, wire.encode_frame([Hello(wire.PROTOCOL, "fuzz", "", "none", 4)]))


async def fuzz_websocket(stats: Account, count: int, rng: Random, folder: Path) -> None:
    """Sends at least `count` frames to the two endpoints in turn."""
    vocab = toy_card().vocab_size
    sources = {
        "/v1/agent": WebSocketFrames(Frames("agent to gateway", rng, vocab=vocab), rng),
        "/v1/engine": WebSocketFrames(Frames("gateway to verifier", rng, vocab=vocab), rng),
    }
    errors = _ErrorLines(stats)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: stats.escape(str(context)))
    logging.getLogger().addHandler(errors)
    try:
        async with (
            running_verifier() as verifier,
            serving(verifier) as verifier_url,
            running_gateway(folder, verifier_url) as gateway,
            serving(gateway, wire.MAX_AGENT_FRAME) as gateway_url,
            connect(f"{gateway_url}/v1/agent", additional_headers=HEADERS, compression=None) as honest,
            httpx.AsyncClient(base_url=gateway_url.replace("ws", "http", 1), headers=HEADERS, timeout=60) as http,
        ):
            await honest.send(wire.encode_frame([Hello(wire.PROTOCOL, "honest", "", "none", 4)]))
            reading = asyncio.create_task(_read_all(honest))
            right = await _chat(stats, http, "")
            urls = {"/v1/agent": gateway_url, "/v1/engine": verifier_url}
            while stats.frames < count:
                path = rng.choice(list(urls))
                await _attack(stats, urls[path] + path, sources[path], rng)
                if stats.links % LINKS_PER_CHAT == 0:
                    await _chat(stats, http, right)
                if stats.links == 50:
                    stats.settled()
            if honest.protocol.state is not OPEN:
                stats.escape(f"the honest agent lost its link: {honest.protocol.close_exc}")
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    finally:
        logging.getLogger().removeHandler(errors)


class _ErrorLines(logging.Handler):
    """Counts each line of level error as an escape."""

    def __init__(self, stats: Account) -> None:
        super().__init__(logging.ERROR)
        self._stats = stats

    def emit(self, record: logging.LogRecord) -> None:
        self._stats.escape(f"logged: {self.format(record)[:1000]}")


async def _attack(stats: Account, url: str, source: WebSocketFrames, rng: Random) -> None:
    """One connection: a handshake, which is mostly correct, frames in pieces of any size, and an end."""
    headers = HEADERS if rng.random() < 0.95 else {"Authorization": "Bearer wrong"}
    early = source.next()[0] if rng.random() < 0.03 else b""
    link = await dial(url, headers, after=early)
    stats.links += 1
    if link.status == 101 and not early and rng.random() < 0.95:
        link.writer.write(HELLO)
    reading = asyncio.create_task(link.read_until_cut(CUT_SECONDS * 10))
    try:
        for _ in range(rng.randint(1, PIECES_PER_LINK)):
            if reading.done():
                break
            data, frames = source.next()
            stats.frames += frames
            cut = rng.randint(0, len(data)) if rng.random() < 0.2 else len(data)
            for part in (data[:cut], data[cut:]):
                await link.send(part, CUT_SECONDS)
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
        if rng.random() < 0.5:
            await _leave(stats, link, reading)
    except TimeoutError:
        stats.escape(f"{url} neither read nor cut a link")
    except OSError:  # the connection was cut
        pass
    if reading.done():
        stats.rejected += 1
    else:
        stats.accepted += 1
    link.close()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def _leave(stats: Account, link: RawWebSocket, reading: asyncio.Task[bytes]) -> None:
    """Say goodbye; then, and after rubbish that is taken for an unfinished frame, send no more and be cut in time."""
    await link.send(frame(CLOSE, b"\x03\xe8"), CUT_SECONDS)
    link.writer.write_eof()
    async with asyncio.timeout(CUT_SECONDS):
        await asyncio.wait([reading])


async def _chat(stats: Account, http: httpx.AsyncClient, right: str) -> str:
    """Checks that a chat gets its complete answer, always the same; returns its text."""
    answer = await http.post("/v1/chat/completions", json=CHAT)
    body: dict[str, Any] = answer.json()
    stats.chats += 1
    if answer.status_code != 200 or body["usage"]["completion_tokens"] != CHAT["max_tokens"]:
        stats.escape(f"a chat was answered {answer.status_code} {answer.text[:200]}")
        return right
    text: str = body["choices"][0]["message"]["content"]
    if right and text != right:
        stats.escape("a chat's text changed")
    return text


async def _read_all(connection: Any) -> None:
    async for _ in connection:
        pass
