"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from starlette.responses import Response

from gateway.accounts import Owner
from gateway.api.dependencies import GenerationDep, ResponsesDep
from gateway.api.generation_context import GenerationContext, GenerationDependencies, admit_request
from gateway.api.openapi import described
from gateway.api.responses.conversation import Conversation, messages_of, read_conversation
from gateway.api.responses.items import new_response_id
from gateway.api.responses.request import ResponsesRequest, parse_responses_request
from gateway.api.responses.response import ResponseBody, ResponseStream, StoreResponse
from gateway.api.responses.store import ResponseStore, StoredResponse, TooLarge
from gateway.api.session_requests import build_session_requests
from gateway.http.errors import ApiError
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import PreparedChat, prepare_chat

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0  # the longest that a finished response waits for the database

RESPONSE_FIELDS = ("id", "object", "created_at", "model", "status", "output", "usage")

router = APIRouter()


@router.post("/v1/responses", **described(ResponsesRequest, *RESPONSE_FIELDS, streams=True))
async def create_response(http: Request, dependencies: GenerationDep, responses: ResponsesDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = parse_responses_request(await context.document())
        response_id = new_response_id()
        model, conversation, chat = await context.prepare(
            _prepare(context, dependencies, responses, request, response_id)
        )
        sessions = build_session_requests(
            request, model, chat.prompt, context.principal, choices=1, param="input", grammar=chat.grammar
        )
        generation = context.chat_generation("responses", request, sessions, chat)
        store = None
        if responses is not None and request.store is not False:
            store = _store_response(responses, context.principal.agents_owner, request, conversation)
        body = ResponseBody(response_id, generation, request, store)
        if request.stream:
            return context.stream(generation, ResponseStream(body))
        return await context.complete(generation, body)


@router.websocket("/v1/responses")
async def refuse_websocket(socket: WebSocket) -> None:
    """Clients that try a WebSocket first go on over HTTP when they see this status."""
    error = ApiError(426, "Responses are served over HTTP: POST to this path.", code="websocket_not_served")
    await socket.send_denial_response(error.response())


@router.post("/v1/responses/input_tokens", **described(ResponsesRequest, "object", "input_tokens"))
async def count_input_tokens(http: Request, dependencies: GenerationDep, responses: ResponsesDep) -> dict[str, Any]:
    """Counts the prompt tokens that the same request to POST /v1/responses would have."""
    async with admit_request(http, dependencies) as context:
        request = parse_responses_request(await context.document())
        _, _, chat = await context.prepare(_prepare(context, dependencies, responses, request, new_response_id()))
        return {"object": "response.input_tokens", "input_tokens": len(chat.prompt)}


async def _prepare(
    context: GenerationContext,
    dependencies: GenerationDependencies,
    responses: ResponseStore | None,
    request: ResponsesRequest,
    response_id: str,
) -> tuple[ServedModel, Conversation, PreparedChat]:
    """Raises ApiError."""
    tools, text_format = request.tool_use(), request.text_format()
    model = await context.model(request.model)
    conversation = await read_conversation(responses, context.principal.agents_owner, request, response_id)
    messages = await messages_of(context.prompts, model, request, conversation, tools)
    options = request.chat_template_kwargs or {}
    chat = await prepare_chat(model, context.prompts, context.grammars, messages, options, tools, text_format, "input")
    return model, conversation, chat


def _store_response(
    responses: ResponseStore, owner: Owner, request: ResponsesRequest, conversation: Conversation
) -> StoreResponse:
    async def store(body: dict[str, Any]) -> bool:
        """Never raises: a database failure must not cost the client its response."""
        stored = StoredResponse(body["id"], request.previous_response_id, conversation.length, conversation.own, body)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await responses.save(owner, stored)
        except TooLarge as error:
            log.warning("a response is not stored response=%s reason=%s", body["id"], error)
            return False
        except Exception:
            log.exception("a response could not be stored response=%s", body["id"])
            return False
        return True

    return store
