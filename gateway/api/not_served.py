"""OpenAI's endpoints that this gateway does not serve: a 404 that says what to do, in place of one without a word."""

from __future__ import annotations

from fastapi import APIRouter, Request

from gateway.http.errors import ApiError

METHODS = ["GET", "POST", "DELETE"]
PATHS = (
    *("embeddings", "moderations", "audio", "images", "videos", "files", "uploads", "batches", "fine_tuning"),
    *("assistants", "threads", "vector_stores", "realtime", "evals", "containers"),
)

router = APIRouter()


async def _not_served(request: Request) -> None:
    raise ApiError(
        404,
        f"{request.url.path[:80]} is not served: this gateway generates text only. Give the client a second base URL "
        "for it, or put a router in front; docs/clients.md#embeddings shows how.",
        code="endpoint_not_served",
    )


for _path in PATHS:
    router.add_api_route(f"/v1/{_path}", _not_served, methods=METHODS, include_in_schema=False)
    router.add_api_route(f"/v1/{_path}/{{rest:path}}", _not_served, methods=METHODS, include_in_schema=False)
