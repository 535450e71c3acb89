"""uvicorn's HTTP protocol with timeouts against slow clients (Slowloris), which it lacks.

A request's head must arrive in time, and the response must be read in time. The body's timeout is set by its reader,
and the app may take as long as it needs to respond. Open WebSockets have pings.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Http
else:
    Http = AutoHTTPProtocol

HEAD_SECONDS = 20.0  # from the connection's start, or from the last response, to the end of a request's head
UNREAD_SECONDS = 30.0  # that the send buffer may stay full


class SlowClientProtection(Http):
    """For uvicorn.Config(http=...)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _watch_head(self) -> None:
        if self.transport.get_protocol() is not self:
            self._stop()  # it is a WebSocket now
        elif self.cycle is not None and not self.cycle.response_complete:
            if self._head:
                self._head.cancel()
                self._head = None
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        for timer in (self._head, self._unread):
            if timer:
                timer.cancel()
        self._head = self._unread = None
