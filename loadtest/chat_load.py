"""Load on a chat completions endpoint: so many requests, so many of them at once, every text checked.

A closed loop: whoever is answered asks again. The client is made to cost little, for it shares the machine with what is
measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

TIMEOUT = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True)
class Target:
    """Where to send what. `text` is the only right answer."""

    url: str
    key: str
    model: str
    prompt: str
    tokens: int
    text: str

    def body(self, stream: bool) -> dict[str, Any]:
        messages = [{"role": "user", "content": self.prompt}]
        body = {"model": self.model, "messages": messages, "max_tokens": self.tokens, "temperature": 0}
        return body | {"stream": True} if stream else body


@dataclass
class Load:
    """What came of it. `wall` is seconds from the first request to the last answer, `chunks` count text in streams."""

    wall: float = 0.0
    right: int = 0
    chunks: int = 0
    failures: list[str] = field(default_factory=list)


async def load(target: Target, requests: int, at_once: int, stream: bool, session: aiohttp.ClientSession) -> Load:
    """`requests` in all, `at_once` of them running."""
    result = Load()
    left = iter(range(requests))
    one = _streamed if stream else _whole

    async def ask_on() -> None:
        for _ in left:
            try:
                text = await one(session, target, result)
            except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, ValueError) as error:
                result.failures.append(f"{type(error).__name__}: {error}")
            else:
                if text == target.text:
                    result.right += 1
                else:
                    result.failures.append(f"another text: {text[:60]!r} of {len(text)} characters")

    began = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(at_once)))
    result.wall = time.perf_counter() - began
    return result


def run(work: Callable[[aiohttp.ClientSession], Any]) -> Any:
    """`work` in an event loop of its own, with connections that are kept and not limited in number."""

    async def main() -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT) as session:
            return await work(session)

    return asyncio.run(main())


async def _whole(session: aiohttp.ClientSession, target: Target, result: Load) -> str:
    async with _post(session, target, stream=False) as reply:
        document = msgspec.json.decode(await reply.read())
        if reply.status != 200:
            raise ValueError(f"status {reply.status}: {document}")
        return document["choices"][0]["message"]["content"]


async def _streamed(session: aiohttp.ClientSession, target: Target, result: Load) -> str:
    """The text, if the stream ended as it should. Raises ValueError if not."""
    text, finished, done = [], False, False
    async with _post(session, target, stream=True) as reply:
        if reply.status != 200:
            raise ValueError(f"status {reply.status}: {await reply.text()}")
        async for line in reply.content:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                done = True
                continue
            chunk = msgspec.json.decode(line[6:])
            if "error" in chunk:
                raise ValueError(f"an error in the stream: {chunk['error']}")
            for choice in chunk["choices"]:
                finished = finished or bool(choice.get("finish_reason"))
                if piece := choice["delta"].get("content"):
                    result.chunks += 1
                    text.append(piece)
    if not (finished and done):
        raise ValueError("a stream without its end")
    return "".join(text)


def _post(session: aiohttp.ClientSession, target: Target, stream: bool) -> Any:
    return session.post(
        f"{target.url}/v1/chat/completions",
        json=target.body(stream),
        headers={"authorization": f"Bearer {target.key}"},
    )
