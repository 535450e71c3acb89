"""Where other replicas dial in, on a port of its own that no client needs to reach.

Who cannot prove that it is a replica is answered in HTTP, before there is a WebSocket.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from edgedraft.links.outbox import Outbox, TooSlow
from edgedraft.links.race import race
from edgedraft.observability.logs import event
from edgedraft.wire import MAX_FRAME, WireError
from gateway.agents.registry import AgentRegistry
from gateway.observability.metrics import Metrics
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.hosting import RemoteSessions
from gateway.replicas.messages import CHALLENGE_HEADER, PATH, RESPONSE_HEADER, to_host

log = logging.getLogger(__name__)

PING_SECONDS = 5.0
LINK_MESSAGES = 1 << 16  # that wait to be sent to one replica


class ReplicaEndpoint:
    """Lends this replica's agents. `open` and `close` once each."""

    def __init__(
        self, host: str, port: int, advertise: str, prover: Handshake, agents: AgentRegistry, metrics: Metrics
    ):
        self.address = advertise
        self._host = host
        self._port = port
        self._prover = prover
        self._agents = agents
        self._metrics = metrics
        self._server: Server | None = None

    async def open(self) -> None:
        """Listen; `address` is then where others reach it. Raises OSError."""
        self._server = await serve(
            self._link,
            self._host,
            self._port,
            process_request=self._prove,
            process_response=self._answer,
            max_size=MAX_FRAME,
            compression=None,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=1,
            server_header=None,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = self.address or f"ws://{host}:{port}"

    async def close(self) -> None:
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    def _prove(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path != PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, "another protocol is spoken here\n")
        try:
            self._prover.verify(self.address, request.headers.get(CHALLENGE_HEADER, ""))
        except HandshakeFailed as error:
            peer = connection.remote_address
            event(log, "replica turned away", level=logging.WARNING, peer=peer and peer[0], reason=str(error))
            return connection.respond(HTTPStatus.UNAUTHORIZED, "this port is for replicas\n")
        return None

    def _answer(self, connection: ServerConnection, request: Request, response: Response) -> None:
        if CHALLENGE_HEADER in request.headers:
            response.headers[RESPONSE_HEADER] = self._prover.respond(self.address, request.headers[CHALLENGE_HEADER])

    async def _link(self, connection: ServerConnection) -> None:
        outbox = Outbox(LINK_MESSAGES)
        guests = RemoteSessions(self._agents, self._metrics, outbox)

        async def read() -> None:
            while True:
                guests.deliver(to_host(await connection.recv()))

        try:
            await race(read(), outbox.write(connection.send), outbox.overflow())
        except ConnectionClosed:
            pass
        except (WireError, TooSlow) as error:
            event(log, "replica closed", level=logging.WARNING, reason=str(error))
            if isinstance(error, WireError):
                await connection.close(error.code, error.reason)
        finally:
            guests.end_all()
