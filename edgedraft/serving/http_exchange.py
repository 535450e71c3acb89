"""One HTTP request and its response, as ASGI's receive and send."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Protocol

log = logging.getLogger(__name__)

_BAD_NAME = re.compile(rb'[\x00-\x20\x7f-\xff()<>@,;:\\\[\]={}"/?]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Peer(Protocol):
    """What an exchange needs of its connection."""

    writable: asyncio.Event

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]: ...

    def write(self, data: bytes) -> None: ...

    def body_taken(self) -> None:
        """The app has taken the body that was here: more can be read."""

    def response_complete(self, exchange: Exchange) -> None: ...

    def abort(self) -> None: ...


class Exchange:
    """A request whose head is here. The connection adds to `body` and sets `more_body` and `disconnected`."""

    def __init__(self, peer: Peer, scope: dict[str, Any], keep_alive: bool, expects_continue: bool) -> None:
        """`expects_continue`: the client sends its body after a 100 Continue (RFC 9110, section 10.1.1)."""
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.keep_alive = keep_alive
        self.started = False  # the response's head has been written
        self.complete = False  # all of it
        self.arrived = asyncio.Event()  # something that `receive` waits for
        self._peer = peer
        self._scope = scope
        self._expects_continue = expects_continue
        self._is_1_0 = scope["http_version"] == "1.0"
        self._is_head = scope["method"] == "HEAD"
        self._chunked = False
        self._left: int | None = None  # bytes of the body that the head promised
        self._bodiless = False

    async def run(self, app: Any) -> None:
        """Whatever the app does, the client gets a response, or its connection ends."""
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:  # the server ends before the app has
            self._fail(503)
            return
        except Exception:
            log.exception("the app failed path=%r", self._scope["path"][:200])
            self._fail(500)
            return
        if not self.complete and not self.disconnected:
            log.error("the app ended without a complete response path=%r", self._scope["path"][:200])
            self._fail(500)

    async def receive(self) -> dict[str, Any]:
        if self._expects_continue:
            self._expects_continue = False
            if not self.started and not self.disconnected:
                self._peer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.complete:
            self._peer.body_taken()
            await self.arrived.wait()
            self.arrived.clear()
        if self.disconnected or self.complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if not self._peer.writable.is_set() and not self.disconnected:
            await self._peer.writable.wait()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.started and kind == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        elif self.started and not self.complete and kind == "http.response.body":
            self._write_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        if self.complete and not self._peer.writable.is_set() and not self.disconnected:
            await self._peer.writable.wait()  # the app ends when most is sent, so that a drain waits for it

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head: chunked where the length is unknown, delimited by the connection's end for HTTP/1.0."""
        lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()]
        has_connection = False
        if self._expects_continue:  # the client may send its body or not, so the next head cannot be told from it
            self.keep_alive = False
        for given, value in (*self._peer.default_headers, *headers):
            if _BAD_NAME.search(given) or _BAD_VALUE.search(value):
                raise RuntimeError(f"invalid response header {given!r}")
            name = given.lower()
            if name == b"transfer-encoding":
                continue  # the connection's own matter
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection":
                has_connection = True
                if b"close" in value.lower():
                    self.keep_alive = False
            lines += name, b": ", value, b"\r\n"
        self._bodiless = self._is_head or status in (204, 304)
        if self._left is None and not self._bodiless:
            if self._is_1_0:
                self.keep_alive = False
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not has_connection:
            if not self.keep_alive:
                lines.append(b"connection: close\r\n")
            elif self._is_1_0:
                lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self.started = True
        self._peer.write(b"".join(lines))

    def _write_body(self, body: bytes, more: bool) -> None:
        if self._bodiless:
            pass
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += b"0\r\n\r\n"
            if data:
                self._peer.write(data)
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("the response's body has another length than its head said")
            if body:
                self._peer.write(body)
        if not more:
            self._end()

    def _end(self) -> None:
        self.complete = True
        self.arrived.set()
        self._peer.response_complete(self)

    def _fail(self, status: int) -> None:
        """A response of its own while none has begun; else the connection's end tells that it is incomplete."""
        if self.disconnected or self.complete:
            return
        if self.started:
            self._peer.abort()
            return
        self.keep_alive = False
        self._peer.write(error_response(status, self._peer.default_headers, self._is_head))
        self.started = True
        self._end()


def error_response(status: int, headers: Iterable[tuple[bytes, bytes]], bodiless: bool = False) -> bytes:
    """A complete response that ends its connection, with an error as OpenAI's clients read it."""
    phrase = HTTPStatus(status).phrase
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    body = json.dumps({"error": {"message": f"{phrase}.", "type": kind, "param": None, "code": code}}).encode()
    lines = [_STATUS_LINES[status]]
    for name, value in (
        *headers,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ):
        lines += name, b": ", value, b"\r\n"
    return b"".join((*lines, b"\r\n", b"" if bodiless else body))
