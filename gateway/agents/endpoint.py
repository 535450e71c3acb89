"""WebSocket /v1/agent: where desktops attach. Key, greeting, then drafts in and sessions out until either side ends.

A wrong key is answered in HTTP, before there is a WebSocket; everything later with a close code and a reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from edgedraft.links.outbox import TooSlow
from edgedraft.links.race import race
from edgedraft.observability.logs import event
from edgedraft.serving.server import receive_frame
from edgedraft.wire import (
    MOVE,
    PROTOCOL,
    TIMEOUT,
    TOKENIZER_MISMATCH,
    TOO_MANY,
    UNAUTHORIZED,
    AgentWelcome,
    Hello,
    WireError,
    decode_from_agent,
    expect_hello,
)
from gateway.accounts import KeyWatch, Principal
from gateway.agents.link import AgentLink
from gateway.http.authentication import authenticate, bearer_key
from gateway.http.errors import ApiError, shutting_down
from gateway.model.served_model import ServedModel
from gateway.services import Services, services_of
from gateway.verifiers.pool import VerifierPool

log = logging.getLogger(__name__)

router = APIRouter()

HELLO_SECONDS = 10.0
VERIFIER_SECONDS = 5.0  # that an agent which came before the first verifier is kept waiting
CLOSE_SECONDS = 2.0
TRY_AGAIN_LATER = 1013  # RFC 6455's registry


@router.websocket("/v1/agent")
async def agent(websocket: WebSocket) -> None:
    services = services_of(websocket)
    try:
        if services.drain.begun:
            raise shutting_down()
        principal = await authenticate(services.accounts, websocket.headers, "edge")
    except ApiError as error:
        await websocket.send_denial_response(error.response())
        return
    await websocket.accept()
    try:
        hello = await _hello(websocket)
        model = await _model_of(hello, services.verifiers)
        await _serve(websocket, services, principal, hello, model)
    except WireError as error:
        level = logging.INFO if error.code == MOVE else logging.WARNING
        event(log, "agent closed", level=level, owner=principal.owner, code=error.code, reason=error.reason)
        await _close(websocket, error.code, error.reason)
    except TooSlow as error:
        event(log, "agent closed", level=logging.WARNING, owner=principal.owner, reason=str(error))
        await _close(websocket, TIMEOUT, str(error))
    except WebSocketDisconnect:
        pass


async def _serve(
    websocket: WebSocket, services: Services, principal: Principal, hello: Hello, model: ServedModel
) -> None:
    link = AgentLink(
        agent=f"agent-{uuid.uuid4().hex[:12]}",
        identity=_identity(principal, hello),
        owner=principal.agents_owner,
        fingerprint=model.fingerprint,
        max_sessions=hello.max_sessions,
        name=hello.name,
        drafter=hello.drafter,
        tracing=services.traces.tracing if services.traces else None,
    )
    link.put(AgentWelcome(PROTOCOL, link.agent, model.name, model.vocab_size, link.max_sessions, model.fingerprint))
    if services.drain.begun:
        link.request_move()  # it came while the others were told
    services.agents.attach(link)
    event(log, "agent attached", owner=principal.owner, agent=link.agent, name=hello.name, drafter=hello.drafter)
    try:
        if services.replicas and not await services.replicas.announce(link):
            raise WireError(TOO_MANY, "this owner has as many agents attached as are allowed, at other replicas too")
        await race(
            _read(websocket, link),
            link.outbox.write(websocket.send_bytes),
            link.outbox.overflow(),
            link.move_requested(),
            _revoked(services.watch, bearer_key(websocket.headers)),
        )
    finally:
        services.agents.detach(link)
        if services.replicas:
            services.replicas.withdraw(link)
        event(log, "agent detached", owner=principal.owner, agent=link.agent)


async def _read(websocket: WebSocket, link: AgentLink) -> None:
    while True:
        link.deliver(await receive_frame(websocket))


def _identity(principal: Principal, hello: Hello) -> str:
    """What verifiers know an agent by, to remember what its guesses were worth; it tells them nobody's name."""
    who = "\0".join((*principal.agents_owner, hello.name, hello.drafter))
    return hashlib.sha256(who.encode()).hexdigest()[:16]


async def _hello(websocket: WebSocket) -> Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            return expect_hello(decode_from_agent(await receive_frame(websocket)))
    except TimeoutError:
        raise WireError(TIMEOUT, f"no hello in {HELLO_SECONDS:g} seconds") from None


async def _model_of(hello: Hello, verifiers: VerifierPool) -> ServedModel:
    """The model that the agent can draft for. Raises WireError when there is none."""
    await verifiers.wait_for_model(VERIFIER_SECONDS)
    if not len(verifiers.catalog):
        raise WireError(TRY_AGAIN_LATER, "no verifier is connected yet; try again")
    if not hello.fingerprint:  # no tokenizer of its own: it repeats what is there, whatever the ids mean
        return next(iter(verifiers.catalog))
    model = verifiers.catalog.find_by_fingerprint(hello.fingerprint)
    if model is None:
        served = ", ".join(f"{model.name} {model.fingerprint[:12]}" for model in verifiers.catalog)
        raise WireError(TOKENIZER_MISMATCH, f"your tokenizer is {hello.fingerprint[:12]}, here: {served}")
    return model


async def _revoked(watch: KeyWatch, key: str) -> None:
    await watch.wait_revoked(key)
    raise WireError(UNAUTHORIZED, "the key was revoked")


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Say why, if the peer still listens."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await websocket.close(code, reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        pass
