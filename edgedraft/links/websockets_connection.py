"""Connections of the `websockets` library with metered frames and deadlines for a peer that does not read.

For `connect(create_connection=...)` and `serve(create_connection=...)`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.protocol import CONNECTING, SERVER

from edgedraft.links.frame_meter import FrameMeter
from edgedraft.links.settings import LinkSettings
from edgedraft.links.write_deadline import WriteDeadline


class _Bounded(Connection):
    def __init__(self, *arguments: Any, settings: LinkSettings, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._meter = FrameMeter(self.protocol, settings.frames)
        self._is_server = self.protocol.side is SERVER
        self._deadline = WriteDeadline(self._abort, settings.write_timeout, settings.close_timeout)

    def data_received(self, data: bytes) -> None:
        self._meter.begin_read(early=self._is_server and self.protocol.state is CONNECTING)
        super().data_received(data)
        if self._meter.exceeded:
            self._abort()
        elif self.protocol.close_expected():
            self._deadline.closing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._deadline.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._deadline.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.stop()
        super().connection_lost(exc)

    def _abort(self) -> None:
        self.transport.abort()


class BoundedClientConnection(_Bounded, ClientConnection):
    """The dialling side."""


class BoundedServerConnection(_Bounded, ServerConnection):
    """A connection of a server that is no ASGI app."""


def client_connection(settings: LinkSettings) -> Any:
    """The factory for `connect`."""
    return partial(BoundedClientConnection, settings=settings)


def server_connection(settings: LinkSettings) -> Any:
    """The factory for `serve`."""
    return partial(BoundedServerConnection, settings=settings)
