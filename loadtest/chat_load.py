"""A closed loop of requests to a chat completions endpoint, with every text checked.

The client costs little CPU, since it shares the machine with what is measured.
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
    """An endpoint and a request. `text` is the expected answer."""

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
class LoadResult:
    """`wall`: seconds from the first request to the last answer; `chunks`: streamed chunks with text."""

    wall: float = 0.0
    correct: int = 0
    chunks: int = 0
    failures: list[str] = field(default_factory=list)


async def run_load(
    target: Target, requests: int, concurrency: int, stream: bool, session: aiohttp.ClientSession
) -> LoadResult:
    """Sends `requests` requests, `concurrency` at a time."""
    result = LoadResult()
    left = iter(range(requests))
    send = _streamed if stream else _complete

    async def client() -> None:
        for _ in left:
            try:
                text = await send(session, target, result)
            except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, ValueError) as error:
                result.failures.append(f"{type(error).__name__}: {error}")
            else:
                if text == target.text:
                    result.correct += 1
                else:
                    result.failures.append(f"another text: {text[:60]!r} of {len(text)} characters")

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    result.wall = time.perf_counter() - began
    return result


def run_with_client(work: Callable[[aiohttp.ClientSession], Any]) -> Any:
    """Runs `work` in a new event loop, with a client that keeps connections open and does not limit their number."""

    async def main() -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT) as session:
            return await work(session)

    return asyncio.run(main())


async def _complete(session: aiohttp.ClientSession, target: Target, result: LoadResult) -> str:
    async with _post(session, target, stream=False) as reply:
        document = msgspec.json.decode(await reply.read())
        if reply.status != 200:
            raise ValueError(f"status {reply.status}: {document}")
        return document["choices"][0]["message"]["content"]


async def _streamed(session: aiohttp.ClientSession, target: Target, result: LoadResult) -> str:
    """The text. Raises ValueError for a stream with an error or without its end."""
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
        raise ValueError("the stream ended early")
    return "".join(text)


def _post(session: aiohttp.ClientSession, target: Target, stream: bool) -> Any:
    return session.post(
        f"{target.url}/v1/chat/completions",
        json=target.body(stream),
        headers={"authorization": f"Bearer {target.key}"},
    )
