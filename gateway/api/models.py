"""GET /v1/models and /v1/models/{id}: what is served, as OpenAI lists it, with vLLM's `root` and `max_model_len`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.caller import find_model
from gateway.api.openapi import described
from gateway.http.authentication import authenticate
from gateway.model.served_model import ServedModel
from gateway.services import services_of

router = APIRouter()


@router.get("/v1/models", **described(None, "object", "data"))
async def models(http: Request) -> dict[str, Any]:
    services = services_of(http)
    await authenticate(services.accounts, http.headers, scope=None)
    return {"object": "list", "data": [_model_object(model) for model in services.verifiers.catalog]}


@router.get("/v1/models/{name:path}", **described(None, "id", "object", "created", "owned_by"))
async def model(http: Request, name: str) -> dict[str, Any]:
    services = services_of(http)
    await authenticate(services.accounts, http.headers, scope=None)
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
