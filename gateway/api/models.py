"""GET /v1/models and /v1/models/{id}: the served models in OpenAI's shape, with vLLM's `root` and `max_model_len`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from gateway.api.dependencies import AnyPrincipal, CatalogDep
from gateway.api.generation_context import find_model
from gateway.api.openapi import described
from gateway.model.served_model import ServedModel

router = APIRouter()


@router.get("/v1/models", **described(None, "object", "data"))
async def models(principal: AnyPrincipal, catalog: CatalogDep) -> dict[str, Any]:
    return {"object": "list", "data": [_model_object(model) for model in catalog]}


@router.get("/v1/models/{name:path}", **described(None, "id", "object", "created", "owned_by"))
async def model(principal: AnyPrincipal, catalog: CatalogDep, name: str) -> dict[str, Any]:
    return _model_object(find_model(catalog, name))


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "edgedraft",
        "root": model.name,
        "max_model_len": model.context_length,
    }
