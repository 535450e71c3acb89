"""An event stream: its status, its frames, and how it ends when the source fails or the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.http.errors import ApiError, internal_error
from gateway.http.event_stream import DONE, EventStream, error_frames, frame


class Encoder:
    def encode(self, event: str) -> bytes:
        return event.encode()

    async def finish(self) -> bytes:
        return DONE

    def fail(self, error: ApiError) -> bytes:
        return error_frames(error)


class Client:
    """Receives what the response sends; `disconnected` is the client's end of the connection."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.disconnected = asyncio.Event()
        self.received = asyncio.Event()
        self.ended = 0

    async def receive(self) -> Any:
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        self.received.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    def end(self) -> None:
        self.ended += 1


class Source:
    """Yields the items, then raises `error`, or waits for ever with `endless`."""

    def __init__(self, *items: str, error: Exception | None = None, endless: bool = False) -> None:
        self.closed = False
        self._items, self._error, self._endless = items, error, endless

    @asynccontextmanager
    async def run(self) -> AsyncIterator[AsyncIterator[str]]:
        try:
            yield self._iterate()
        finally:
            self.closed = True

    async def _iterate(self) -> AsyncIterator[str]:
        for item in self._items:
            yield item
        if self._error:
            raise self._error
        if self._endless:
            await asyncio.Event().wait()


def to_api_error(error: Exception, started: bool) -> ApiError:
    if not started:
        raise error
    return internal_error()


async def stream(source: Source, client: Client) -> None:
    response = EventStream(source.run(), Encoder(), to_api_error, client.end)
    await response({"type": "http"}, client.receive, client.send)


async def test_the_status_is_sent_with_the_first_frame_and_the_encoder_ends_the_stream() -> None:
    client, source = Client(), Source("", "a", "b")
    await stream(source, client)
    assert [message["type"].rpartition(".")[2] for message in client.messages] == ["start", *["body"] * 4]
    assert client.messages[0]["status"] == 200
    assert client.body == b"ab" + DONE
    assert client.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert source.closed
    assert client.ended == 1


async def test_an_error_before_the_first_frame_sends_nothing() -> None:
    client = Client()
    with pytest.raises(LookupError):
        await stream(Source("", error=LookupError()), client)
    assert client.messages == []
    assert client.ended == 1


async def test_a_later_error_is_a_frame_and_then_done() -> None:
    client, source = Client(), Source("a", error=LookupError())
    await stream(source, client)
    assert client.body == b"a" + frame(internal_error().body) + DONE
    assert source.closed
    assert client.ended == 1


async def test_a_disconnect_closes_the_source() -> None:
    client, source = Client(), Source("a", endless=True)
    task = asyncio.create_task(stream(source, client))
    await client.received.wait()
    client.disconnected.set()
    await task
    assert source.closed
    assert client.ended == 1


async def test_a_server_that_shuts_down_ends_the_stream_with_an_error() -> None:
    client, source = Client(), Source("a", endless=True)
    task = asyncio.create_task(stream(source, client))
    await client.received.wait()
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert b"shutting_down" in client.body
    assert client.body.endswith(DONE)
    assert client.ended == 1


async def test_a_server_that_shuts_down_before_the_first_frame_answers_503() -> None:
    client = Client()
    task = asyncio.create_task(stream(Source(endless=True), client))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ApiError) as raised:
        await task
    assert raised.value.status == 503
    assert client.ended == 1
