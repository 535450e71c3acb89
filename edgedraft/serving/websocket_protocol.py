"""uvicorn's WebSocket protocol with metered frames and deadlines for a peer that does not read, which it lacks.

What a peer sends never becomes an error in the log: refused handshakes and invalid UTF-8 are answered and forgotten.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import OPEN

from edgedraft.links.frame_meter import FrameMeter
from edgedraft.links.settings import LinkSettings
from edgedraft.links.write_deadline import WriteDeadline

SETTINGS = LinkSettings(max_frame=0)  # its frame limits and timeouts; uvicorn's configuration has max_frame and pings


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """For uvicorn.Config(ws=...)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.close_timeout = SETTINGS.close_timeout
        self._meter = FrameMeter(self.conn, SETTINGS.frames)
        self._deadline = WriteDeadline(self._abort, SETTINGS.write_timeout, SETTINGS.close_timeout)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.BaseTransport, _ClosingTransport(transport, self._deadline)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._meter.begin_read(early=not self.handshake_complete)
        super().data_received(data)
        if self._meter.exceeded:
            self._abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._deadline.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._deadline.resumed()

    def shutdown(self) -> None:
        """uvicorn's server closes. Its own method fails for a connection that is closing by the peer's wish."""
        if self.handshake_complete and not self.close_sent and self.conn.state is not OPEN:
            self.stop_keepalive()
            self.transport.close()
            return
        super().shutdown()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(b"".join(self.frames)):
            if self.conn.state is OPEN:  # not if the same read held a closing frame behind the text
                self.conn.send_close(1007, "a text that is not UTF-8")
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        if self.handshake_complete and self.close_sent and self.initial_response is None:
            raise ClientDisconnected  # uvicorn calls it the app's fault, which cannot know what its peer just did
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # uvicorn would log that a refused handshake was not completed

    def _abort(self) -> None:
        self.transport.abort()


class _ClosingTransport:
    """A transport that is aborted if it has not closed in time."""

    def __init__(self, transport: asyncio.BaseTransport, deadline: WriteDeadline) -> None:
        self._transport = transport
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._transport.close()
        self._deadline.closing()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
