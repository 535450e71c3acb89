"""WebSocket /v1/agent, where agents attach: authentication, greeting, and relaying until either side ends the link.

A wrong key or ticket is answered in HTTP, before the WebSocket is opened; everything later with a close code and a
reason. Browsers bring a ticket as a WebSocket subprotocol (gateway/agents/tickets.py), all others a key in a header.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, WebSocket

from edgedraft.devices import known_device
from edgedraft.links.greetings import Greetings
from edgedraft.links.link import TRY_AGAIN_LATER, Link
from edgedraft.links.settings import AGENT_ENDPOINT
from edgedraft.links.starlette_transport import StarletteTransport
from edgedraft.links.transport import TransportClosed
from edgedraft.observability.logs import BoundedEvents, event
from edgedraft.observability.tracing import Tracing
from edgedraft.serving.drain import Drain
from edgedraft.wire import (
    MOVE,
    PROTOCOL,
    TOKENIZER_MISMATCH,
    TOO_MANY,
    UNAUTHORIZED,
    AgentWelcome,
    Hello,
    WireError,
    decode_from_agent,
)
from gateway.accounts import Accounts, KeyWatch, Principal, key_digest
from gateway.agents.link import AgentLink
from gateway.agents.registry import AgentRegistry
from gateway.agents.tickets import TicketStore
from gateway.http.authentication import authenticate_digest, bearer_key
from gateway.http.errors import SERVER, ApiError, shutting_down
from gateway.http.origin import check_origin
from gateway.model.served_model import ServedModel
from gateway.verifiers.pool import VerifierPool

if TYPE_CHECKING:
    from gateway.replicas.service import Replicas

log = logging.getLogger(__name__)

router = APIRouter()

SETTINGS = AGENT_ENDPOINT
SUBPROTOCOL, TICKET_PREFIX = "edgedraft.agent", "ticket."  # what a browser offers: the former, and a ticket
SIGN_OF_LIFE_SECONDS = 10.0  # between two empty frames to a browser, which is not shown the WebSocket's pings
FIRST_VERIFIER_SECONDS = 5.0  # that an agent waits for the first verifier to connect


@dataclass(frozen=True, slots=True)
class AgentDependencies:
    """What the endpoint needs."""

    accounts: Accounts
    watch: KeyWatch
    tickets: TicketStore
    allowed_origins: Sequence[str]
    registry: AgentRegistry
    verifiers: VerifierPool
    drain: Drain
    replicas: Replicas | None
    tracing: Tracing | None
    greetings: Greetings = field(default_factory=Greetings)
    refusals: BoundedEvents = field(default_factory=lambda: BoundedEvents(log))


async def _dependencies(websocket: WebSocket) -> AgentDependencies:
    return websocket.app.state.agent_endpoint


@router.websocket("/v1/agent")
async def agent(websocket: WebSocket, dependencies: Annotated[AgentDependencies, Depends(_dependencies)]) -> None:
    try:
        if dependencies.drain.begun:
            raise shutting_down()
        digest, subprotocol = await _authenticated_digest(websocket, dependencies)
        principal = await authenticate_digest(dependencies.accounts, digest, "edge")
        if dependencies.greetings.full:
            raise ApiError(503, "Too many agents are connecting.", kind=SERVER, code="overloaded", retry_after=1)
    except ApiError as error:
        client = websocket.client
        dependencies.refusals.event("agent refused", peer=client and client.host, status=error.status)
        await websocket.send_denial_response(error.response())
        return
    await websocket.accept(subprotocol)
    link = Link(StarletteTransport(websocket, SETTINGS), SETTINGS)
    try:
        hello = await dependencies.greetings.receive_hello(link, decode_from_agent)
        model = await _model_for(hello, dependencies.verifiers)
        await _serve(link, dependencies, principal, digest, hello, model, in_browser=subprotocol is not None)
    except WireError as error:
        level = logging.INFO if error.code == MOVE else logging.WARNING
        event(log, "agent closed", level=level, owner=principal.owner, code=error.code, reason=error.reason)
        await link.close(error.code, error.reason)
    except TransportClosed:
        pass


async def _serve(
    link: Link,
    dependencies: AgentDependencies,
    principal: Principal,
    digest: str,
    hello: Hello,
    model: ServedModel,
    in_browser: bool,
) -> None:
    """Attach the agent until its link ends. Raises WireError or TransportClosed."""
    agent = AgentLink(
        agent=f"agent-{uuid.uuid4().hex[:12]}",
        identity=_identity(principal, hello),
        owner=principal.agents_owner,
        fingerprint=model.fingerprint,
        max_sessions=hello.max_sessions,
        name=hello.name,
        drafter=hello.drafter,
        device=known_device(hello.device),
        tracing=dependencies.tracing,
        settings=SETTINGS,
    )
    agent.put(AgentWelcome(PROTOCOL, agent.agent, model.name, model.vocab_size, agent.max_sessions, model.fingerprint))
    if dependencies.drain.begun:
        agent.request_move()  # the drain began during the greeting
    dependencies.registry.attach(agent)
    event(
        log,
        "agent attached",
        owner=principal.owner,
        agent=agent.agent,
        name=hello.name,
        drafter=hello.drafter,
        device=agent.device,
    )
    try:
        if dependencies.replicas and not await dependencies.replicas.announce(agent):
            raise WireError(TOO_MANY, "this owner has as many agents attached as are allowed, at other replicas too")
        tasks = [agent.move_requested(), _key_revoked(dependencies.watch, digest)]
        await link.run(agent.outbox, agent.take_frame, *tasks, *([_show_life(link)] if in_browser else []))
    finally:
        dependencies.registry.detach(agent)
        if dependencies.replicas:
            dependencies.replicas.withdraw(agent)
        event(log, "agent detached", owner=principal.owner, agent=agent.agent)


async def _authenticated_digest(websocket: WebSocket, dependencies: AgentDependencies) -> tuple[str, str | None]:
    """The digest of the key, by a header or by a ticket, and the subprotocol to accept. Raises ApiError 401 or 403."""
    offered: list[str] = websocket.scope["subprotocols"]
    name = next((one.removeprefix(TICKET_PREFIX) for one in offered if one.startswith(TICKET_PREFIX)), None)
    if name is None:
        return key_digest(bearer_key(websocket.headers)), None
    ticket = await dependencies.tickets.take(name)
    if ticket is None:
        raise ApiError(401, "This ticket is unknown, used or expired.", code="invalid_ticket")
    origin = check_origin(websocket.headers, dependencies.allowed_origins)
    if origin != ticket.origin:
        raise ApiError(403, "This ticket was issued to another origin.", code="invalid_origin")
    return ticket.key_digest, SUBPROTOCOL if SUBPROTOCOL in offered else None


def _identity(principal: Principal, hello: Hello) -> str:
    """The agent's name towards verifiers, which record how well it drafts; it does not reveal the owner's name."""
    parts = "\0".join((*principal.agents_owner, hello.name, hello.drafter))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


async def _model_for(hello: Hello, verifiers: VerifierPool) -> ServedModel:
    """The model that the agent can draft for. Raises WireError if there is none."""
    await verifiers.wait_for_model(FIRST_VERIFIER_SECONDS)
    if not len(verifiers.catalog):
        raise WireError(TRY_AGAIN_LATER, "no verifier is connected yet; try again")
    if not hello.fingerprint:  # no tokenizer of its own: prompt lookup works on any token ids
        return next(iter(verifiers.catalog))
    model = verifiers.catalog.find_by_fingerprint(hello.fingerprint)
    if model is None:
        served = ", ".join(f"{model.name} {model.fingerprint[:12]}" for model in verifiers.catalog)
        raise WireError(TOKENIZER_MISMATCH, f"your tokenizer is {hello.fingerprint[:12]}, here: {served}")
    return model


async def _show_life(link: Link) -> None:
    """Send an empty frame now and then, by whose absence a page notices a dead connection."""
    while True:
        await asyncio.sleep(SIGN_OF_LIFE_SECONDS)
        await link.send([])


async def _key_revoked(watch: KeyWatch, digest: str) -> None:
    """Wait until the key is revoked. Raises WireError UNAUTHORIZED then."""
    await watch.wait_revoked(digest)
    raise WireError(UNAUTHORIZED, "the key was revoked")
