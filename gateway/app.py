"""The gateway's ASGI app: builds its parts, starts and stops them, and registers the routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from edgedraft.grammar.service import GrammarService
from edgedraft.observability.tracing import Tracing
from edgedraft.serving.drain import Drain
from gateway.accounts import Accounts, KeyLimits, KeyWatch
from gateway.agents.registry import AgentRegistry
from gateway.agents.tickets import MemoryTickets
from gateway.api import admin, agent_endpoint, models, not_served, openapi, tokenize
from gateway.api.attach import route as attach
from gateway.api.attach.offered_drafts import OfferedDrafts
from gateway.api.chat import route as chat
from gateway.api.completions import route as completions
from gateway.api.dashboard import route as dashboard
from gateway.api.generation_context import GenerationDependencies
from gateway.api.health import health_routes
from gateway.api.responses import create, stored
from gateway.api.responses.store import ResponseStore
from gateway.http import errors
from gateway.http.bodies.json_body import JsonBodies
from gateway.http.drain import DrainMiddleware
from gateway.http.event_stream import KeepAlive
from gateway.http.request_context import RequestContext
from gateway.http.routing import HeadAsGet, TrailingSlash
from gateway.ledger import Ledger, Prices
from gateway.ledger.money import to_nano
from gateway.limits.admission import Admission
from gateway.limits.body_bytes import BodyBytes
from gateway.limits.rate_limits import MemoryRateStore
from gateway.limits.request_bounds import MAX_JSON_STRINGS, MAX_JSON_VALUES
from gateway.model.prompt_workers import PromptWorkers
from gateway.observability.event_loop import EventLoopWatch
from gateway.observability.metrics import Metrics
from gateway.observability.traces import GatewayTraces
from gateway.sessions.session import SessionFactory
from gateway.settings import GatewaySettings
from gateway.storage.database import Database
from gateway.verifiers.pool import VerifierPool

if TYPE_CHECKING:
    from gateway.replicas.service import Replicas


def build_app(
    settings: GatewaySettings, tracing: Tracing | None = None, prompts: PromptWorkers | None = None
) -> FastAPI:
    """Returns one gateway. It connects to verifiers and database when the app starts.

    `prompts` may be shared by several gateways of one process, which then do not close it.
    Raises ValueError for replica settings and for a folder of drafts that cannot be used.
    """
    metrics = Metrics()
    drain = Drain(settings.drain_grace)
    agents = AgentRegistry(settings.max_agents_per_owner, metrics)
    replicas = _replicas(settings, agents, metrics) if settings.redis else None
    database = Database(settings.database)
    ledger = Ledger(database, Prices.read(settings.prices))
    accounts = Accounts(database, settings.key)
    responses = (
        ResponseStore(database, settings.response_days, settings.response_megabytes << 20)
        if settings.store_responses
        else None
    )
    rates = replicas.rates if replicas else MemoryRateStore()
    admission = Admission(
        _default_limits(settings),
        rates,
        ledger,
        settings.work_seconds_per_minute,
        settings.reads_per_minute,
        replicas.reservations if replicas else None,
    )
    own_prompts = PromptWorkers() if prompts is None else None
    prompts = prompts or own_prompts
    assert prompts
    verifiers = VerifierPool(
        settings.verifier,
        settings.verifier_token,
        "gateway",
        metrics,
        prompts.load_model,
        ledger.record_spent,
        settings.dns_seconds,
        settings.hedge_after,
    )
    loop_watch = EventLoopWatch(metrics.registry)
    grammars = GrammarService()
    bodies = JsonBodies(MAX_JSON_VALUES, MAX_JSON_STRINGS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await database.open(upgrade=settings.db_upgrade)
        await ledger.open()
        if replicas:
            await replicas.start()
        verifiers.start()
        closing = asyncio.Event()
        purging = asyncio.create_task(responses.keep_purged(closing)) if responses else None
        watching = asyncio.create_task(loop_watch.run())
        yield
        watching.cancel()
        closing.set()
        if purging:
            await asyncio.gather(purging, return_exceptions=True)
        if replicas:
            await replicas.stop()
        await verifiers.stop()
        await asyncio.to_thread(grammars.close)
        await asyncio.to_thread(bodies.close)
        if own_prompts:
            await asyncio.to_thread(own_prompts.close)
        await ledger.close()
        await database.close()
        if tracing:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="EdgeDraft gateway",
        lifespan=lifespan,
        redirect_slashes=False,  # TrailingSlash serves both
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    drain.hooks += [agents.move_all, *([replicas.leave] if replicas else [])]
    state = app.state  # what the routes' dependencies return (api/dependencies.py)
    state.accounts, state.database, state.ledger, state.responses = accounts, database, ledger, responses
    state.admission, state.agents, state.verifiers, state.replicas = admission, agents, verifiers, replicas
    state.metrics, state.drain = metrics, drain
    state.bodies, state.body_bytes = bodies, BodyBytes(settings.body_megabytes << 20)
    state.tickets = replicas.tickets if replicas else MemoryTickets()
    state.offered_drafts, state.allowed_origins = OfferedDrafts.read(settings.browser_drafts), settings.allowed_origins
    state.generation = GenerationDependencies(
        accounts=accounts,
        admission=admission,
        verifiers=verifiers,
        bodies=bodies,
        grammars=grammars,
        prompts=prompts,
        sessions=SessionFactory(verifiers, agents, metrics, settings.open_timeout, settings.silence_timeout),
        ledger=ledger,
        metrics=metrics,
        traces=GatewayTraces(tracing) if tracing else None,
        open_timeout=settings.open_timeout,
        control_in_prompts=settings.control_tokens_in_prompts,
        keep_alive=KeepAlive(settings.sse_status_seconds, settings.sse_comment_seconds),
    )
    state.agent_endpoint = agent_endpoint.AgentDependencies(
        accounts,
        KeyWatch(accounts),
        state.tickets,
        settings.allowed_origins,
        agents,
        verifiers,
        drain,
        replicas,
        tracing,
    )
    app.add_middleware(HeadAsGet)
    app.add_middleware(DrainMiddleware, drain=drain)
    app.add_middleware(RequestContext)
    app.add_middleware(TrailingSlash)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    errors.install(app)
    routers = [
        routes.router
        for routes in (chat, completions, create, stored, tokenize, models, agent_endpoint, attach, dashboard, openapi)
    ]
    if settings.admin_api:
        routers.append(admin.router)
    # The routes themselves: an included router is analysed by the first request, for longer than the event loop may be
    # held, and matched twice by each.
    for router in (*routers, health_routes(verifiers, metrics, drain), not_served.router):
        app.router.routes += router.routes
    return app


def _replicas(settings: GatewaySettings, agents: AgentRegistry, metrics: Metrics) -> Replicas:
    """Imports the Redis client only where it is needed: it loads OpenTelemetry's SDK if that is installed."""
    from gateway.replicas.service import Replicas

    return Replicas(settings, agents, metrics)


def _default_limits(settings: GatewaySettings) -> KeyLimits:
    return KeyLimits(
        settings.requests_per_minute,
        settings.tokens_per_minute,
        settings.max_sessions_per_key,
        None if settings.monthly_spend is None else to_nano(settings.monthly_spend),
    )
