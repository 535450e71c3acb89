"""Stored responses: GET and DELETE /v1/responses/{id}, its input items, and the error for cancelling it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.accounts import Principal
from gateway.api.dependencies import InferencePrincipal, ResponsesDep
from gateway.api.openapi import described
from gateway.api.responses.create import RESPONSE_FIELDS
from gateway.api.responses.items import Item, is_response_id
from gateway.api.responses.store import NotStored, ResponseStore, StoredResponse
from gateway.http.errors import ApiError

PAGE = 20  # items, when the request sets no limit
MAX_PAGE = 100

router = APIRouter()

_PAGING = {
    "parameters": [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}},
        {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
        {"name": "after", "in": "query", "schema": {"type": "string"}},
    ]
}


@router.get("/v1/responses/{response_id}", **described(None, *RESPONSE_FIELDS))
async def get_response(
    http: Request, response_id: str, principal: InferencePrincipal, responses: ResponsesDep
) -> Response:
    stored = await _stored(responses, principal, response_id)
    if http.query_params.get("stream", "false").lower() not in ("false", "0"):
        message = "Only responses made in the background can be streamed again, and there are none here."
        raise ApiError(400, message, param="stream", code="unsupported_parameter")
    return JSONResponse(stored.body)


@router.delete("/v1/responses/{response_id}", **described(None, "id", "object", "deleted"))
async def delete_response(response_id: str, principal: InferencePrincipal, responses: ResponsesDep) -> dict[str, Any]:
    if responses is None or not is_response_id(response_id):
        raise _not_found(response_id)
    if not await responses.delete(principal.agents_owner, response_id):
        raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/v1/responses/{response_id}/cancel", **described(None, *RESPONSE_FIELDS))
async def cancel_response(response_id: str, principal: InferencePrincipal, responses: ResponsesDep) -> Response:
    """Always fails: only background responses can be cancelled, and there are none here."""
    await _stored(responses, principal, response_id)
    raise ApiError(400, "Only responses made in the background can be cancelled.", code="not_in_background")


@router.get("/v1/responses/{response_id}/input_items", **described(None, "object", "data"), openapi_extra=_PAGING)
async def list_input_items(
    http: Request, response_id: str, principal: InferencePrincipal, responses: ResponsesDep
) -> dict[str, Any]:
    """Lists the input items of the response's own request, without those of earlier responses."""
    items = (await _stored(responses, principal, response_id)).input
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


async def _stored(responses: ResponseStore | None, principal: Principal, response_id: str) -> StoredResponse:
    """Raises ApiError 404, or DatabaseDown."""
    if responses is None or not is_response_id(response_id):
        raise _not_found(response_id)
    try:
        return await responses.get(principal.agents_owner, response_id)
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
