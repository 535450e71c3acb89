"""POST /v1/responses: from the request's bytes to a session, and from its text to the response."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.accounts import Owner
from gateway.api.caller import GenerationContext, admitted
from gateway.api.jobs import jobs_for
from gateway.api.openapi import described
from gateway.api.responses.conversation import Conversation, messages_of, read_conversation
from gateway.api.responses.items import new_response_id
from gateway.api.responses.request import ResponsesRequest, parse_responses_request
from gateway.api.responses.response import Keep, ResponseAnswer
from gateway.api.responses.store import ResponseStore, StoredResponse, TooLarge
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import PreparedChat, prepare_chat

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0  # what a client waits for the database at most, its answer in sight

ANSWER = ("id", "object", "created_at", "model", "status", "output", "usage")

router = APIRouter()


@router.post("/v1/responses", **described(ResponsesRequest, *ANSWER, streams=True))
async def create_response(http: Request) -> Response:
    async with admitted(http) as caller:
        request = parse_responses_request(await caller.body())
        response_id = new_response_id()
        model, conversation, plan = await _prepared(caller, request, response_id)
        jobs = jobs_for(request, model, plan.prompt, caller.principal, choices=1, param="input", grammar=plan.grammar)
        generation = caller.generation("responses", jobs, request.stops, len(plan.prompt), plan.make_reader)
        owner, store = caller.principal.agents_owner, caller.services.responses
        keep = None if store is None or request.store is False else _keeper(store, owner, request, conversation)
        answer = ResponseAnswer(response_id, request, model.token_bytes, keep)
        if request.stream:
            return caller.stream(answer.frames(generation), answer.failed)
        return await caller.whole(answer.body(generation))


@router.post("/v1/responses/input_tokens", **described(ResponsesRequest, "object", "input_tokens"))
async def count_input_tokens(http: Request) -> dict[str, Any]:
    """How many tokens the same request's prompt would have."""
    async with admitted(http) as caller:
        request = parse_responses_request(await caller.body())
        _, _, plan = await _prepared(caller, request, new_response_id())
        return {"object": "response.input_tokens", "input_tokens": len(plan.prompt)}


async def _prepared(
    caller: GenerationContext, request: ResponsesRequest, response_id: str
) -> tuple[ServedModel, Conversation, PreparedChat]:
    """Raises ApiError."""
    tools, wanted = request.tool_use(), request.text_format()
    model = await caller.model(request.model)
    services = caller.services
    conversation = await read_conversation(services.responses, caller.principal.agents_owner, request, response_id)
    messages = await messages_of(model, request, conversation, tools)
    options = request.chat_template_kwargs or {}
    return model, conversation, await prepare_chat(model, services.grammars, messages, options, tools, wanted, "input")


def _keeper(store: ResponseStore, owner: Owner, request: ResponsesRequest, conversation: Conversation) -> Keep:
    async def keep(body: dict[str, Any]) -> bool:
        """Whatever happens to the database, the client gets its answer."""
        stored = StoredResponse(body["id"], request.previous_response_id, conversation.length, conversation.own, body)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await store.save(owner, stored)
        except TooLarge as error:
            log.warning("a response is not stored response=%s reason=%s", body["id"], error)
            return False
        except Exception:
            log.exception("a response could not be stored response=%s", body["id"])
            return False
        return True

    return keep
