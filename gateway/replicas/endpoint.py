"""The host replica's WebSocket server for requesting replicas, on a port of its own that no client needs to reach.

A peer that fails the handshake is answered in HTTP, before the WebSocket is opened.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from edgedraft.links.link import Frame, Link
from edgedraft.links.outbox import Outbox
from edgedraft.links.settings import REPLICA
from edgedraft.links.transport import TransportClosed
from edgedraft.links.websockets_connection import server_connection
from edgedraft.links.websockets_transport import WebSocketsTransport, connection_options
from edgedraft.observability.logs import BoundedEvents, event
from edgedraft.wire import WireError
from gateway.agents.registry import AgentRegistry
from gateway.observability.metrics import Metrics
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.hosting import RemoteSessions
from gateway.replicas.messages import CHALLENGE_HEADER, PATH, RESPONSE_HEADER, decode_to_host

log = logging.getLogger(__name__)


class ReplicaEndpoint:
    """Serves this replica's agents to sessions of other replicas. Call `open` and `close` once each."""

    def __init__(
        self, host: str, port: int, advertise: str, handshake: Handshake, agents: AgentRegistry, metrics: Metrics
    ) -> None:
        self.address = advertise
        self._host = host
        self._port = port
        self._handshake = handshake
        self._agents = agents
        self._metrics = metrics
        self._server: Server | None = None
        self._refusals = BoundedEvents(log)

    async def open(self) -> None:
        """Listen; after that, `address` is where other replicas connect. Raises OSError."""
        self._server = await serve(
            self._relay,
            self._host,
            self._port,
            process_request=self._verify,
            process_response=self._respond,
            server_header=None,
            create_connection=server_connection(REPLICA),
            **connection_options(REPLICA),
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = self.address or f"ws://{host}:{port}"

    async def close(self) -> None:
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    def _verify(self, connection: ServerConnection, request: Request) -> Response | None:
        """Returns the HTTP response that refuses the connection, if it is to be refused."""
        if request.path != PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, "another protocol is spoken here\n")
        try:
            self._handshake.verify(self.address, request.headers.get(CHALLENGE_HEADER, ""))
        except HandshakeFailed as error:
            peer = connection.remote_address
            self._refusals.event("replica turned away", peer=peer and peer[0], reason=str(error))
            return connection.respond(HTTPStatus.UNAUTHORIZED, "this port is for replicas\n")
        return None

    def _respond(self, connection: ServerConnection, request: Request, response: Response) -> None:
        if CHALLENGE_HEADER in request.headers:
            response.headers[RESPONSE_HEADER] = self._handshake.respond(self.address, request.headers[CHALLENGE_HEADER])

    async def _relay(self, connection: ServerConnection) -> None:
        link = Link(WebSocketsTransport(connection), REPLICA)
        outbox = Outbox(REPLICA)
        sessions = RemoteSessions(self._agents, self._metrics, outbox)

        async def take_frame(frame: Frame) -> None:
            sessions.deliver(decode_to_host(frame))

        try:
            await link.run(outbox, take_frame)
        except TransportClosed:
            pass
        except WireError as error:
            event(log, "replica closed", level=logging.WARNING, reason=str(error))
            await link.close(error.code, error.reason)
        finally:
            sessions.end_all()
