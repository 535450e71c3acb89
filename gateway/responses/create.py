"""POST /v1/responses: from the request's bytes to a session, and from its text to the response."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.accounts import Owner
from gateway.caller import admitted
from gateway.jobs import jobs_for
from gateway.openapi import described
from gateway.responses.answer import Keep, ResponseAnswer
from gateway.responses.conversation import Conversation, prompt_of, read_conversation
from gateway.responses.items import new_response_id
from gateway.responses.request import ResponsesRequest, parse_responses_request
from gateway.responses.store import ResponseStore, StoredResponse, TooLarge

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0  # what a client waits for the database at most, its answer in sight

ANSWER = ("id", "object", "created_at", "model", "status", "output", "usage")

router = APIRouter()


@router.post("/v1/responses", **described(ResponsesRequest, *ANSWER, streams=True))
async def create_response(http: Request) -> Response:
    async with admitted(http) as caller:
        request = parse_responses_request(await caller.body())
        model = await caller.model(request.model)
        owner, store = caller.principal.agents_owner, caller.services.responses
        response_id = new_response_id()
        conversation = await read_conversation(store, owner, request, response_id)
        prompt = await prompt_of(model, request, conversation)
        jobs = jobs_for(request, model, prompt, caller.principal, choices=1, param="input")
        generation = caller.generation("responses", jobs, request.stops, len(prompt))
        keep = None if store is None or request.store is False else _keeper(store, owner, request, conversation)
        answer = ResponseAnswer(response_id, request, model.token_bytes, keep)
        if request.stream:
            return caller.stream(answer.frames(generation), answer.failed)
        return await caller.whole(answer.body(generation))


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
