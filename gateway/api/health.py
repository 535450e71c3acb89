"""GET /health, /healthz, /readyz and /metrics, for orchestrators and Prometheus; they need no key."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, PlainTextResponse

from edgedraft.serving.drain import Drain
from gateway.api.openapi import OPEN
from gateway.observability.metrics import Metrics
from gateway.verifiers.pool import VerifierPool


def health_routes(verifiers: VerifierPool, metrics: Metrics, drain: Drain) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz", **OPEN)
    @router.get("/health", **OPEN)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", **OPEN)
    async def ready() -> Response:
        """200 while a verifier is connected and the gateway is not shutting down, else 503."""
        if drain.begun:
            return JSONResponse({"status": "draining"}, 503)
        if verifiers.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "no verifier is connected"}, 503)

    @router.get("/metrics", response_class=PlainTextResponse, **OPEN)
    async def prometheus() -> Response:
        # In a thread: thousands of series take longer than the event loop may be held.
        text = await asyncio.to_thread(generate_latest, metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
