"""GET /openapi.json: the schema of every route, for tools that generate clients or tests.

The gateway's own code reads and validates bodies, so that errors have OpenAI's shape and sizes are bounded. Routes
therefore declare their schemas with `described`. A route needs a bearer key unless it is declared OPEN.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from gateway.http.bodies.validation import Schema

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERRORS = {
    "400": "What was asked for cannot be served; param names what is wrong",
    "401": "No key, or one that does not work",
    "403": "The key lacks the scope",
    "404": "There is no such thing",
    "413": "The body is too large",
    "429": "The key may do no more now, or all verifiers are full; see retry-after",
    "500": "The gateway's own fault",
    "503": "Nobody can serve this now; see retry-after",
}
OPEN: dict[str, Any] = {"openapi_extra": {"security": []}}  # of routes that need no key

router = APIRouter()


def described(body: type[Schema] | None, *required: str, streams: bool = False) -> dict[str, Any]:
    """Returns keywords for a route's decorator: the body's schema, and the required fields of its JSON response.

    With `streams`, the route responds with server-sent events if the body's `stream` is true.
    """
    answer = {"type": "object", "required": list(required)}
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    keywords: dict[str, Any] = {"responses": {200: {"description": "The answer", "content": content}}}
    if body:
        schema = body.model_json_schema(ref_template=_REF)
        keywords["openapi_extra"] = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        }
    return keywords


@router.get("/openapi.json", include_in_schema=False)
async def openapi(http: Request) -> Response:
    app: FastAPI = http.app
    app.openapi_schema = app.openapi_schema or document(app)
    return JSONResponse(app.openapi_schema)


def document(app: FastAPI) -> dict[str, Any]:
    """The app's routes in OpenAPI 3.1."""
    described = get_openapi(title="EdgeDraft", version=version("edgedraft"), routes=app.routes)
    components = described.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"bearer": []}]
    failure = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    for operations in described["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schemas.update(content["schema"].pop("$defs", {}))
            if operation.get("security") != []:
                for status, meaning in _ERRORS.items():
                    operation["responses"].setdefault(status, {"description": meaning, "content": failure})
    return described
