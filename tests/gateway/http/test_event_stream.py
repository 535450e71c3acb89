"""An event stream: its status, its frames, and how it ends when the source fails or the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.http import event_stream
from gateway.http.errors import ApiError, internal_error
from gateway.http.event_stream import COMMENT, DONE, EventStream, KeepAlive, error_frames, frame, join_pieces


class Encoder:
    def encode(self, event: str) -> Iterator[bytes]:
        yield event.encode()

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


async def stream(source: Source, client: Client, keep_alive: KeepAlive | None = None) -> None:
    response = EventStream(source.run(), Encoder(), to_api_error, client.end, keep_alive or KeepAlive())
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


SOON = KeepAlive(status_after=0.01, comment_every=0.01)


async def test_a_silent_stream_sends_its_status_and_comments() -> None:
    client, source = Client(), Source(endless=True)
    task = asyncio.create_task(stream(source, client, SOON))
    while len(client.messages) < 4:
        client.received.clear()
        await client.received.wait()
    assert client.messages[0]["status"] == 200
    assert client.body == COMMENT * (len(client.messages) - 1)
    client.disconnected.set()
    await task
    assert source.closed
    assert client.ended == 1


async def test_an_error_behind_the_status_is_a_frame() -> None:
    client, silent = Client(), asyncio.Event()

    class Failing(Source):
        async def _iterate(self) -> AsyncIterator[str]:
            await silent.wait()
            raise LookupError
            yield ""

    task = asyncio.create_task(stream(Failing(), client, SOON))
    await client.received.wait()
    silent.set()
    await task
    assert client.body.replace(COMMENT, b"") == frame(internal_error().body) + DONE
    assert client.ended == 1


async def test_without_an_interval_there_is_one_comment_and_no_more() -> None:
    client = Client()
    task = asyncio.create_task(stream(Source(endless=True), client, KeepAlive(0.01, 0)))
    await client.received.wait()
    await asyncio.sleep(0.1)
    task.cancel()
    await task
    assert client.body.count(COMMENT) == 1
    assert b"shutting_down" in client.body


async def test_a_client_that_does_not_read_gets_no_more_comments() -> None:
    client, blocked = Client(), asyncio.Event()

    async def send(message: Any) -> None:
        client.messages.append(message)
        if message["type"] == "http.response.body":
            blocked.set()
            await asyncio.Event().wait()

    response = EventStream(Source("a", endless=True).run(), Encoder(), to_api_error, client.end, SOON)
    task = asyncio.create_task(response({"type": "http"}, client.receive, send))
    await blocked.wait()
    await asyncio.sleep(0.1)
    assert client.body == b"a"
    client.disconnected.set()
    await task


async def test_others_run_between_the_pieces_of_a_large_event(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    made = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made
        while made < 10:
            made += 1
            yield b"a"

    async def other() -> None:
        while made < 10:
            seen.append(made)
            await asyncio.sleep(0)

    monkeypatch.setattr(event_stream, "STEP_SECONDS", -1.0)
    joined, _ = await asyncio.gather(join_pieces(pieces()), other())
    assert joined == b"a" * 10
    assert len(seen) >= 9
