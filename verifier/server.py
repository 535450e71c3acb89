"""The verifier's door: gateways over WebSocket at /v1/engine, health and metrics over HTTP.

It decodes and encodes frames and hands messages to the engine's thread; the event loop never waits for the model.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count

from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from edgedraft.links.race import race
from edgedraft.observability.logs import event
from edgedraft.observability.tracing import Tracing
from edgedraft.serving.server import receive_frame
from edgedraft.wire import (
    BAD_FRAME,
    CLOSE_LEAVING,
    MAX_MESSAGES,
    PROTOCOL,
    TIMEOUT,
    TOO_MANY,
    UNAUTHORIZED,
    AgentChanged,
    Close,
    Commit,
    Draft,
    Hello,
    ModelCard,
    Open,
    Queued,
    Sampling,
    VerifierWelcome,
    WireError,
    decode_to_verifier,
    encode_frame,
    expect_hello,
)
from verifier.drain import Drain
from verifier.engine.interface import Engine
from verifier.engine_loop import EngineLoop, LinkClosed
from verifier.metrics import Metrics
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.traces import SessionSpans

log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
CLOSE_SECONDS = 2.0
SEND_SECONDS = 20.0  # for one frame; a gateway that takes longer is gone
OUTBOX = 1 << 16  # messages that wait for one gateway to read them
BACKLOG = 1 << 13  # messages that wait for the engine, after which gateways are read no further
BACKLOG_PAUSE = 0.01  # seconds
MOST_HELD = 256  # messages of a session whose grammar is being compiled
TRY_AGAIN_LATER = 1013  # RFC 6455's registry
GOING = "this verifier is going"


Posted = Open | Draft | AgentChanged | Close


class _Preparing:
    """Sessions of one link whose grammars are being compiled, which can take seconds, and what came for them meanwhile.

    The engine's thread hears of none of it before that is done, and so never waits for a compiler.
    """

    def __init__(self, prepare: Callable[[Sampling], None], post: Callable[[Posted], None], max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._prepare = prepare
        self._post = post
        self._held: dict[int, list[Posted]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._held)

    def take(self, message: Posted) -> None:
        """Post a message, at once or in its turn. Raises WireError for more than a gateway is told there is room for.

        Drafts past the bound are dropped, which costs no text.
        """
        if held := self._held.get(message.session):
            if len(held) < MOST_HELD:
                held.append(message)
            elif not isinstance(message, Draft):
                raise WireError(TOO_MANY, f"session {message.session} has {MOST_HELD} messages before its grammar")
        elif isinstance(message, Open) and message.sampling.grammar:
            if len(self._held) >= self._max_sessions:
                raise WireError(TOO_MANY, f"more than {self._max_sessions} sessions")
            self._held[message.session] = [message]
            task = asyncio.create_task(self._compile(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._post(message)

    def cancel(self) -> None:
        """The link is gone: what waits is never posted."""
        for task in self._tasks:
            task.cancel()

    async def _compile(self, message: Open) -> None:
        await asyncio.to_thread(self._prepare, message.sampling)
        for waiting in self._held.pop(message.session):
            self._post(waiting)


class _Link:
    """One gateway's connection: an outbox that a writer empties into as few frames as it can."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._outbox: list[Commit | Queued | Close] = []
        self._filled = asyncio.Event()

    def send(self, messages: Sequence[Commit | Queued | Close]) -> None:
        self._outbox.extend(messages)
        self._filled.set()

    async def write(self) -> None:
        """For ever. Raises WireError for a gateway that does not read."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                if len(self._outbox) > OUTBOX:
                    raise WireError(TIMEOUT, f"{OUTBOX} messages are waiting to be read")
                batch, self._outbox = self._outbox[:MAX_MESSAGES], self._outbox[MAX_MESSAGES:]
                try:
                    async with asyncio.timeout(SEND_SECONDS):
                        await self._socket.send_bytes(encode_frame(batch))
                except TimeoutError:
                    raise WireError(TIMEOUT, f"a frame was not read in {SEND_SECONDS:g} seconds") from None


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

    With a `token`, gateways must present it as their bearer token. Once the `drain` has begun, no session does.
    """
    drain = drain or Drain(0.0)
    links: dict[int, _Link] = {}
    prepared: set[_Preparing] = set()
    numbers = count(1)
    metrics = Metrics(card.name)
    spans = SessionSpans(tracing, card.name) if tracing else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def deliver(answers: Sequence[tuple[int, Commit | Queued | Close]]) -> None:
            loop.call_soon_threadsafe(spread, answers)

        app.state.engine_loop = engine_loop = EngineLoop(engine, limits, deliver, metrics, spans)
        engine_loop.start()
        drain.busy = lambda: engine_loop.busy or any(preparing.busy for preparing in prepared)
        yield
        await asyncio.to_thread(engine_loop.stop)
        if tracing:
            await asyncio.to_thread(tracing.close)

    def spread(answers: Sequence[tuple[int, Commit | Queued | Close]]) -> None:
        batches: dict[int, list[Commit | Queued | Close]] = defaultdict(list)
        for number, message in answers:
            batches[number].append(message)
        for number, messages in batches.items():
            if link := links.get(number):
                link.send(messages)

    app = FastAPI(title="EdgeDraft verifier", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "model": card.name}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        """Whether sessions may begin."""
        if drain.begun:
            response.status_code = 503
        return {"status": "draining" if drain.begun else "ready", "model": card.name}

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def read(socket: WebSocket, link: _Link, preparing: _Preparing) -> None:
        """Hand on what a gateway sends, no faster than the engine's thread takes it. Raises WireError."""
        engine_loop: EngineLoop = app.state.engine_loop
        while True:
            for message in decode_to_verifier(await receive_frame(socket)):
                if isinstance(message, Hello):
                    raise WireError(BAD_FRAME, "a second hello")
                if isinstance(message, Open) and drain.begun:
                    link.send([Close(message.session, CLOSE_LEAVING, GOING)])
                else:
                    preparing.take(message)
            while engine_loop.backlog > BACKLOG:  # noqa: ASYNC110 - the engine's thread sets no event
                await asyncio.sleep(BACKLOG_PAUSE)

    @app.websocket("/v1/engine")
    async def gateway(socket: WebSocket) -> None:
        await socket.accept()
        presented = socket.headers.get("authorization", "").removeprefix("Bearer ")
        if token and not hmac.compare_digest(presented.encode(), token.encode()):
            await socket.close(UNAUTHORIZED, "this verifier asks for another token")
            return
        if drain.begun:
            await socket.close(TRY_AGAIN_LATER, GOING)
            return
        number, link = next(numbers), _Link(socket)
        engine_loop: EngineLoop = app.state.engine_loop
        preparing = _Preparing(engine.precompile, partial(engine_loop.post, number), max_sessions)
        prepared.add(preparing)
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = expect_hello(decode_to_verifier(await receive_frame(socket)))
            await socket.send_bytes(encode_frame([VerifierWelcome(PROTOCOL, card, max_sessions)]))
            event(log, "gateway connected", link=number, gateway=hello.name or None)
            links[number] = link
            await race(read(socket, link, preparing), link.write())
        except WireError as error:
            event(log, "gateway closed", level=logging.WARNING, link=number, code=error.code, reason=error.reason)
            await _close(socket, error)
        except (WebSocketDisconnect, TimeoutError) as gone:
            event(log, "gateway gone", link=number, reason=type(gone).__name__)
        finally:
            links.pop(number, None)
            preparing.cancel()
            prepared.discard(preparing)
            engine_loop.post(number, LinkClosed())

    return app


async def _close(socket: WebSocket, error: WireError) -> None:
    """Say why, if the gateway still listens."""
    with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
        async with asyncio.timeout(CLOSE_SECONDS):
            await socket.close(error.code, error.reason)
