"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.chat.request import ChatRequest, parse_chat_request, predicted_text, template_messages
from gateway.api.chat.response import ChatBody, ChatStream
from gateway.api.dependencies import GenerationDep
from gateway.api.generation_context import admit_request
from gateway.api.openapi import described
from gateway.api.session_requests import build_session_requests
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import prepare_chat
from gateway.prompt.preparation import PromptPreparation

router = APIRouter()

CHARACTERS_PER_TOKEN = 8  # of a prediction, which may end early
RESPONSE_FIELDS = ("id", "object", "created", "model", "choices", "usage")


@router.post("/v1/chat/completions", **described(ChatRequest, *RESPONSE_FIELDS, streams=True))
async def chat_completions(http: Request, dependencies: GenerationDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = parse_chat_request(await context.document())
        context.reserve(request.choices)
        model = await context.model(request.model)
        await asyncio.sleep(0)  # validating and converting so many messages are steps of their own
        messages = template_messages(request.messages)
        await asyncio.sleep(0)
        preparation = prepare_chat(
            model,
            context.prompts,
            context.grammars,
            messages,
            request.chat_template_kwargs or {},
            request.tool_use(),
            request.output_format(request.response_format),
        )
        chat = await context.prepare(preparation)
        prediction: list[int] = []
        if request.prediction is not None:
            text = predicted_text(request.prediction)
            prediction = await context.prepare(prediction_tokens(context.prompts, model, text))
        sessions = build_session_requests(
            request,
            model,
            chat.prompt,
            context.principal,
            choices=request.choices,
            param="messages",
            grammar=chat.grammar,
            prediction=prediction,
        )
        generation = context.chat_generation("chat", request, sessions, chat)
        if request.stream:
            return context.stream(generation, ChatStream(generation, request))
        return await context.complete(generation, ChatBody(generation, request))


async def prediction_tokens(prompts: PromptPreparation, model: ServedModel, text: str) -> list[int]:
    """The token ids of a predicted text, no more than the context. Raises ApiError 400."""
    text = text[: model.context_length * CHARACTERS_PER_TOKEN]
    at_most = len(text.encode())
    (tokens,) = await prompts.encode(model, [text], "prediction", with_control=True, max_tokens=at_most)
    return tokens[: model.context_length]
