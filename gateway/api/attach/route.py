"""GET /attach: a page that drafts in the browser, the files that it needs, and POST /v1/edge/tickets.

The page and onnxruntime-web need no key; tickets and draft models, which `edgedraft draft fetch` gets here too, need
one with the edge scope. The page may load nothing from elsewhere, and runs no code but the gateway's own files and
WebAssembly. It is cross-origin isolated, so that WebAssembly has threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import FileResponse, JSONResponse, Response

from gateway.accounts import key_digest
from gateway.agents.tickets import TICKET_SECONDS, Ticket
from gateway.api.attach.offered_drafts import RUNTIME_TYPES, OfferedDrafts
from gateway.api.dependencies import EdgePrincipal, VerifiersDep
from gateway.api.openapi import described
from gateway.http.authentication import bearer_key
from gateway.http.errors import ApiError
from gateway.http.origin import check_origin
from gateway.http.page_files import HEADERS, PageFiles

router = APIRouter()

ISOLATED = {"cross-origin-embedder-policy": "require-corp"}
PAGE = PageFiles(
    "gateway.api.attach",
    ISOLATED
    | {
        "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
        "style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    },
)


async def _drafts(request: Request) -> OfferedDrafts:
    return request.app.state.offered_drafts


DraftsDep = Annotated[OfferedDrafts, Depends(_drafts)]


@router.get("/attach", include_in_schema=False)
async def page(request: Request) -> Response:
    return PAGE.response(request, "page.html")


@router.get("/attach/page/{name:path}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    return PAGE.response(request, name)


@router.get("/attach/drafts", include_in_schema=False)
async def drafts(principal: EdgePrincipal, offered: DraftsDep, verifiers: VerifiersDep) -> Response:
    """The draft models that fit what is served, and where the runtime's files are, "" if there are none."""
    body = {
        "drafts": offered.offers(verifiers.catalog),
        "runtime": "/attach/runtime/" if offered.runtime else "",
    }
    return JSONResponse(body, headers={"cache-control": "no-store"})


@router.get("/attach/drafts/{checksum}", include_in_schema=False)
async def draft_file(request: Request, checksum: str, principal: EdgePrincipal, offered: DraftsDep) -> Response:
    """A file of a draft model. Raises ApiError 404."""
    path = offered.files.get(checksum)
    if path is None:
        raise _not_found(request)
    return _file_response(request, path, "application/octet-stream", HEADERS | {"cache-control": "no-store"})


@router.get("/attach/runtime/{name}", include_in_schema=False)
async def runtime_file(request: Request, name: str, offered: DraftsDep) -> Response:
    """A file of onnxruntime-web. Raises ApiError 404."""
    path = offered.runtime.get(name)
    if path is None:
        raise _not_found(request)
    return _file_response(request, path, RUNTIME_TYPES[path.suffix], HEADERS | ISOLATED)


@router.post("/v1/edge/tickets", **described(None, "object", "ticket", "expires_in"))
async def create_ticket(request: Request, principal: EdgePrincipal) -> Response:
    """A ticket that opens /v1/agent once, as the WebSocket subprotocol `ticket.TICKET`, from the page that asks for it.

    Raises ApiError 403 for a page of an origin that is not allowed.
    """
    state = request.app.state
    origin = check_origin(request.headers, state.allowed_origins)
    ticket = await state.tickets.issue(Ticket(key_digest(bearer_key(request.headers)), origin))
    body = {"object": "edge.ticket", "ticket": ticket, "expires_in": TICKET_SECONDS}
    return JSONResponse(body, headers={"cache-control": "no-store"})


def _file_response(request: Request, path: Path, kind: str, headers: dict[str, str]) -> Response:
    """The file, or a 304 if the client has it; of a HEAD request only the headers."""
    facts = path.stat()
    headers = headers | {"etag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    if request.scope.get("requested_method") == "HEAD":
        return Response(media_type=kind, headers=headers | {"content-length": str(facts.st_size)})
    return FileResponse(path, media_type=kind, headers=headers)


def _not_found(request: Request) -> ApiError:
    return ApiError(404, f"Not Found: {request.method} {request.url.path}")
