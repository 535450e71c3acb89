"""GET and DELETE /v1/responses/{id}, its input items, and why there is nothing to cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.accounts import Owner
from gateway.api.openapi import described
from gateway.api.responses.create import ANSWER
from gateway.api.responses.items import Item, is_response_id
from gateway.api.responses.store import NotStored, ResponseStore, StoredResponse
from gateway.http.authentication import authenticate
from gateway.http.errors import ApiError, database_down
from gateway.services import services_of
from gateway.storage.database import DatabaseDown

PAGE = 20  # items where the request names no number
MAX_PAGE = 100

router = APIRouter()

_PAGING = {
    "parameters": [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}},
        {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
        {"name": "after", "in": "query", "schema": {"type": "string"}},
    ]
}


@router.get("/v1/responses/{response_id}", **described(None, *ANSWER))
async def get_response(http: Request, response_id: str) -> Response:
    stored = await _stored(http, response_id)
    if http.query_params.get("stream", "false").lower() not in ("false", "0"):
        message = "Only responses made in the background can be streamed again, and there are none here."
        raise ApiError(400, message, param="stream", code="unsupported_parameter")
    return JSONResponse(stored.body)


@router.delete("/v1/responses/{response_id}", **described(None, "id", "object", "deleted"))
async def delete_response(http: Request, response_id: str) -> dict[str, Any]:
    async with _storage(http) as (store, owner):
        if store is None or not is_response_id(response_id) or not await store.delete(owner, response_id):
            raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/v1/responses/{response_id}/cancel", **described(None, *ANSWER))
async def cancel_response(http: Request, response_id: str) -> Response:
    await _stored(http, response_id)
    raise ApiError(400, "Only responses made in the background can be cancelled.", code="not_in_background")


@router.get("/v1/responses/{response_id}/input_items", **described(None, "object", "data"), openapi_extra=_PAGING)
async def list_input_items(http: Request, response_id: str) -> dict[str, Any]:
    """What the response's own request put in; what came before is with the responses that it follows."""
    items = (await _stored(http, response_id)).input
    limit = _limit(http)
    items = items[::-1] if _newest_first(http) else items
    items = _after(items, http.query_params.get("after"))
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(items) > limit,
    }


@asynccontextmanager
async def _storage(http: Request) -> AsyncIterator[tuple[ResponseStore | None, Owner]]:
    """The store, if there is one, and who asks. Raises ApiError, 503 when the database does not answer."""
    services = services_of(http)
    principal = await authenticate(services.accounts, http.headers, "inference")
    try:
        yield services.responses, principal.agents_owner
    except DatabaseDown as error:
        raise database_down() from error


async def _stored(http: Request, response_id: str) -> StoredResponse:
    async with _storage(http) as (store, owner):
        if store is None or not is_response_id(response_id):
            raise _not_found(response_id)
        try:
            return await store.get(owner, response_id)
        except NotStored:
            raise _not_found(response_id) from None


def _not_found(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id {response_id!r} not found.", code="response_not_found")


def _limit(http: Request) -> int:
    text = http.query_params.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_PAGE):
        raise ApiError(400, f"limit: a number from 1 to {MAX_PAGE}.", param="limit", code="invalid_value")
    return int(text)


def _newest_first(http: Request) -> bool:
    order = http.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "order: asc or desc.", param="order", code="invalid_value")
    return order == "desc"


def _after(items: list[Item], identity: str | None) -> list[Item]:
    if identity is None:
        return items
    for place, item in enumerate(items, start=1):
        if item["id"] == identity:
            return items[place:]
    raise ApiError(400, f"after: there is no item {identity!r}.", param="after", code="invalid_value")
