"""The gateway's ASGI app: the routes, and the parts behind them from start to end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from edgedraft.settings import GatewaySettings
from gateway import agent_door, chat, errors
from gateway.accounts import Accounts
from gateway.admission import Admission
from gateway.agents import AgentRegistry
from gateway.authentication import authenticate
from gateway.caller import find_model
from gateway.envelope import Envelope
from gateway.served_model import ServedModel
from gateway.services import Services, services_of
from gateway.telemetry import Metrics
from gateway.verifiers import VerifierPool


def build_app(settings: GatewaySettings) -> FastAPI:
    """One gateway; its verifiers are dialled and its database is opened when the app starts."""
    metrics = Metrics()
    services = Services(
        settings=settings,
        accounts=Accounts(settings.database, settings.key),
        admission=Admission(settings.max_sessions_per_key),
        agents=AgentRegistry(settings.max_agents_per_owner, metrics),
        verifiers=VerifierPool(settings.verifier, settings.verifier_token, "gateway", metrics),
        metrics=metrics,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await services.accounts.open()
        services.verifiers.start()
        yield
        await services.verifiers.stop()
        await services.accounts.close()

    app = FastAPI(title="EdgeDraft gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    app.add_middleware(Envelope)
    errors.install(app)
    app.include_router(chat.router)
    app.include_router(agent_door.router)
    _add_health(app)
    _add_models(app)
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz")
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready(request: Request) -> Response:
        """Whether some verifier is connected."""
        if services_of(request).verifiers.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "no verifier is connected"}, 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        return Response(generate_latest(services_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_models(app: FastAPI) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        services = services_of(request)
        await authenticate(services.accounts, request.headers, scope=None)
        return {"object": "list", "data": [_model_object(model) for model in services.verifiers.catalog]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        services = services_of(request)
        await authenticate(services.accounts, request.headers, scope=None)
        return _model_object(find_model(services, name))


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "edgedraft",
        "root": model.name,
        "max_model_len": model.context_length,
    }
