"""The gateway's ASGI app: the routes, and the parts behind them from start to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse

from edgedraft.grammar.service import GrammarService
from edgedraft.observability.tracing import Tracing
from edgedraft.serving.drain import Drain
from gateway.accounts import Accounts, KeyLimits, KeyWatch
from gateway.agents import endpoint as agent_endpoint
from gateway.agents.registry import AgentRegistry
from gateway.api import admin, models, openapi, tokenize
from gateway.api.chat import route as chat
from gateway.api.completions import route as completions
from gateway.api.dashboard import route as dashboard
from gateway.api.openapi import OPEN
from gateway.api.responses import create, stored
from gateway.api.responses.store import ResponseStore
from gateway.http import errors
from gateway.http.drain import DrainMiddleware
from gateway.http.request_context import RequestContext
from gateway.ledger import Ledger, Prices
from gateway.ledger.money import to_nano
from gateway.limits.admission import Admission
from gateway.limits.rate_limits import MemoryRateStore
from gateway.observability.metrics import Metrics
from gateway.observability.traces import GatewayTraces
from gateway.services import Services, services_of
from gateway.settings import GatewaySettings
from gateway.storage.database import Database
from gateway.verifiers.pool import VerifierPool

if TYPE_CHECKING:
    from gateway.replicas.service import Replicas


def build_app(settings: GatewaySettings, tracing: Tracing | None = None) -> FastAPI:
    """One gateway; its verifiers are dialled and its database is opened when the app starts.

    Raises ValueError for settings of replicas that cannot work.
    """
    metrics = Metrics()
    drain = Drain(settings.drain_grace)
    agents = AgentRegistry(settings.max_agents_per_owner, metrics)
    replicas = _replicas(settings, agents, metrics) if settings.redis else None
    database = Database(settings.database)
    ledger = Ledger(database, Prices.read(settings.prices))
    accounts = Accounts(database, settings.key)
    services = Services(
        settings=settings,
        database=database,
        ledger=ledger,
        accounts=accounts,
        watch=KeyWatch(accounts),
        responses=ResponseStore(database, settings.response_days, settings.response_megabytes << 20)
        if settings.store_responses
        else None,
        admission=Admission(_default_limits(settings), replicas.rates if replicas else MemoryRateStore(), ledger),
        agents=agents,
        verifiers=VerifierPool(
            settings.verifier,
            settings.verifier_token,
            "gateway",
            metrics,
            settings.dns_seconds,
            settings.hedge_after,
        ),
        grammars=GrammarService(),
        metrics=metrics,
        drain=drain,
        replicas=replicas,
        traces=GatewayTraces(tracing) if tracing else None,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await database.open(upgrade=settings.db_upgrade)
        await ledger.open()
        if replicas:
            await replicas.start()
        services.verifiers.start()
        purging = asyncio.create_task(services.responses.keep_purged()) if services.responses else None
        yield
        if purging:
            purging.cancel()
        if replicas:
            await replicas.stop()
        await services.verifiers.stop()
        await asyncio.to_thread(services.grammars.close)
        await ledger.close()
        await database.close()
        if tracing:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(title="EdgeDraft gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    drain.hooks += [agents.move_all, *([replicas.leave] if replicas else [])]
    app.state.services = services
    app.add_middleware(DrainMiddleware, drain=drain)
    app.add_middleware(RequestContext)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    errors.install(app)
    for routes in (chat, completions, create, stored, tokenize, models, agent_endpoint, dashboard, openapi):
        app.include_router(routes.router)
    if settings.admin_api:
        app.include_router(admin.router)
    _add_health(app)
    return app


def _replicas(settings: GatewaySettings, agents: AgentRegistry, metrics: Metrics) -> Replicas:
    """Imported only here: the Redis client loads OpenTelemetry's SDK wherever that is installed."""
    from gateway.replicas.service import Replicas

    return Replicas(settings, agents, metrics)


def _default_limits(settings: GatewaySettings) -> KeyLimits:
    return KeyLimits(
        settings.requests_per_minute,
        settings.tokens_per_minute,
        settings.max_sessions_per_key,
        None if settings.monthly_spend is None else to_nano(settings.monthly_spend),
    )


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", **OPEN)
    @app.get("/health", **OPEN)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", **OPEN)
    async def ready(request: Request) -> Response:
        """Whether some verifier is connected, and the gateway is not ending."""
        if services_of(request).drain.begun:
            return JSONResponse({"status": "draining"}, 503)
        if services_of(request).verifiers.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "no verifier is connected"}, 503)

    @app.get("/metrics", response_class=PlainTextResponse, **OPEN)
    async def metrics(request: Request) -> Response:
        return Response(generate_latest(services_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
