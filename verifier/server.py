"""The verifier's ASGI app: gateways over WebSocket at /v1/engine, health and metrics over HTTP.

It passes messages to the engine's thread and commits to the gateways; the event loop never waits for the model.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

from fastapi import FastAPI, Response, WebSocket
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse

from edgedraft.links.greetings import Greetings
from edgedraft.links.link import Frame, Link
from edgedraft.links.outbox import Outbox
from edgedraft.links.settings import VERIFIER_ENDPOINT
from edgedraft.links.starlette_transport import StarletteTransport
from edgedraft.links.transport import TransportClosed
from edgedraft.observability.logs import BoundedEvents, event
from edgedraft.observability.tracing import Tracing
from edgedraft.serving.drain import Drain
from edgedraft.wire import (
    BAD_FRAME,
    CLOSE_LEAVING,
    PROTOCOL,
    Close,
    Hello,
    ModelCard,
    Open,
    Progress,
    Spent,
    SpentRecorded,
    VerifierWelcome,
    WireError,
    decode_to_verifier,
)
from verifier.compiling_sessions import CompilingSessions
from verifier.drain import wait_for_sessions
from verifier.engine.interface import Engine
from verifier.engine_loop import EngineLoop, LinkClosed, Reply
from verifier.metrics import Metrics
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.session_meter import PROGRESS_SECONDS
from verifier.spent_reports import OFFER_SECONDS, SpentReports
from verifier.traces import SessionSpans

log = logging.getLogger(__name__)

MAX_BACKLOG = 1 << 13  # messages that the engine's thread has not taken, after which gateways are read no further
COMPILER_THREADS = 64  # that wait for their share of the grammar workers
BACKLOG_PAUSE = 0.01  # seconds
DRAINING = "this verifier is going"


def build_app(
    engine: Engine,
    limits: SchedulerLimits,
    card: ModelCard,
    max_sessions: int,
    token: str,
    tracing: Tracing | None = None,
    drain: Drain | None = None,
) -> FastAPI:
    """The verifier's ASGI app; at most `max_sessions` run or wait.

    A gateway may open up to twice as many, for keys that have less than others: the queue rejects who has most.

    With a `token`, gateways must present it as their bearer token; others are refused in HTTP, before the upgrade.
    Once the `drain` has begun, no session is opened.
    """
    drain = drain or Drain(0.0)
    outboxes: dict[int, Outbox] = {}
    compiling: dict[int, CompilingSessions] = {}
    reports = SpentReports()
    compilers = ThreadPoolExecutor(COMPILER_THREADS, thread_name_prefix="compiler")
    numbers = count(1)
    greetings, refusals = Greetings(), BoundedEvents(log)
    metrics = Metrics(card.name)
    spans = SessionSpans(tracing, card.name) if tracing else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def deliver(replies: Sequence[tuple[int, Reply]]) -> None:
            loop.call_soon_threadsafe(distribute, replies)

        app.state.engine_loop = engine_loop = EngineLoop(engine, limits, deliver, metrics, spans)
        engine_loop.start()
        wait_for_sessions(drain, lambda: engine_loop.busy or any(map(len, compiling.values())))
        signs = asyncio.create_task(send_signs_of_life(engine_loop))
        offers = asyncio.create_task(offer_reports())
        yield
        signs.cancel()
        offers.cancel()
        await asyncio.to_thread(engine_loop.stop)
        compilers.shutdown(wait=False, cancel_futures=True)
        if tracing:
            await asyncio.to_thread(tracing.close)

    def distribute(replies: Sequence[tuple[int, Reply]]) -> None:
        """Put a step's replies, each with its link's number, into the links' outboxes."""
        for number, message in replies:
            if isinstance(message, Spent):
                reports.add(number, message)
            elif (outbox := outboxes.get(number)) and not (isinstance(message, Progress) and number not in reports):
                outbox.put(message)

    async def offer_reports() -> None:
        while True:
            await asyncio.sleep(OFFER_SECONDS)
            reports.offer()

    async def send_signs_of_life(engine_loop: EngineLoop) -> None:
        """Tell gateways of sessions that wait for a long step or for their grammars: the engine's thread cannot."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            step = engine_loop.step_under_way
            waiting = [(number, session) for number, held in compiling.items() for session in held.sessions]
            if step and step.is_sign_of_life(time.monotonic()):
                waiting += step.addresses
            distribute([(number, Progress(session)) for number, session in waiting])

    app = FastAPI(title="EdgeDraft verifier", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "model": card.name}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        """Whether sessions can be opened."""
        if drain.begun:
            response.status_code = 503
        return {"status": "draining" if drain.begun else "ready", "model": card.name}

    @app.get("/metrics")
    def prometheus() -> Response:  # in a thread: it must not hold up the links
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def take_frame(number: int, outbox: Outbox, sessions: CompilingSessions, frame: Frame) -> None:
        """Pass a gateway's messages on, no faster than the engine's thread takes them. Raises WireError."""
        engine_loop: EngineLoop = app.state.engine_loop
        for message in decode_to_verifier(frame):
            if isinstance(message, Hello):
                raise WireError(BAD_FRAME, "a second hello")
            if isinstance(message, SpentRecorded):
                reports.record(message.request, message.attempt)
            elif isinstance(message, Open) and drain.begun:
                outbox.put(Close(message.session, CLOSE_LEAVING, DRAINING))
            else:
                sessions.take(message)
        while engine_loop.backlog > MAX_BACKLOG:  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(BACKLOG_PAUSE)

    @app.websocket("/v1/engine")
    async def gateway(socket: WebSocket) -> None:
        presented = socket.headers.get("authorization", "").removeprefix("Bearer ")
        refusal = None
        if token and not hmac.compare_digest(presented.encode(), token.encode()):
            refusal = PlainTextResponse("this verifier asks for another token", 401)
        elif drain.begun:
            refusal = PlainTextResponse(DRAINING, 503)
        elif greetings.full:
            refusal = PlainTextResponse("too many gateways are connecting", 503)
        if refusal:
            refusals.event("gateway refused", peer=socket.client and socket.client.host, status=refusal.status_code)
            await socket.send_denial_response(refusal)
            return
        await socket.accept()
        link = Link(StarletteTransport(socket, VERIFIER_ENDPOINT), VERIFIER_ENDPOINT)
        number, outbox = next(numbers), Outbox(VERIFIER_ENDPOINT)
        engine_loop: EngineLoop = app.state.engine_loop
        sessions = CompilingSessions(engine.precompile, compilers, partial(engine_loop.post, number), 2 * max_sessions)
        compiling[number] = sessions
        try:
            hello = await greetings.receive_hello(link, decode_to_verifier)
            await link.send([VerifierWelcome(PROTOCOL, card, max_sessions)])
            event(log, "gateway connected", link=number, gateway=hello.name or None)
            outboxes[number] = outbox
            if hello.reports:
                reports.add_gateway(number, outbox)
            await link.run(outbox, partial(take_frame, number, outbox, sessions))
        except WireError as error:
            event(log, "gateway closed", level=logging.WARNING, link=number, code=error.code, reason=error.reason)
            await link.close(error.code, error.reason)
        except TransportClosed as closed:
            event(log, "gateway gone", link=number, reason=str(closed))
        finally:
            outboxes.pop(number, None)
            reports.remove_gateway(number)
            sessions.cancel()
            del compiling[number]
            engine_loop.post(number, LinkClosed())

    return app
