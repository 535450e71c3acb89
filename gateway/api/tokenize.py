"""POST /tokenize and /detokenize, in vLLM's shapes: prompts to token ids, and token ids to text."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response

from gateway.api.chat.request import ChatMessage, template_messages
from gateway.api.chat.route import chat_prompt
from gateway.api.completions.request import Token, prompt_tokens
from gateway.api.dependencies import CatalogDep, GenerationDep
from gateway.api.generation_context import GenerationContext, admit_request
from gateway.api.openapi import described
from gateway.http.errors import ApiError
from gateway.http.validation import Schema, read_object, validated
from gateway.model.served_model import ModelCatalog, ServedModel
from gateway.model.token_bytes import escape_bytes

router = APIRouter()


class TokenizeRequest(Schema):
    """A prompt, or the messages of a chat. `model` may be left out when one model is served."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]})

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Schema):
    """Token ids of a model. `model` may be left out when one model is served."""

    model: str | None = None
    tokens: list[Token]


@router.post("/tokenize", **described(TokenizeRequest, "count", "max_model_len", "tokens"))
async def tokenize(http: Request, dependencies: GenerationDep, catalog: CatalogDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = validated(TokenizeRequest, read_object(await context.body()))
        if (request.prompt is None) == (request.messages is None):
            raise ApiError(400, "Either prompt or messages must be given.", param="prompt", code="invalid_value")
        model = await _model(context, catalog, request.model)
        if request.messages is not None:
            tokens = await chat_prompt(model, template_messages(request.messages), request.chat_template_kwargs or {})
        else:
            special = request.add_special_tokens is not False
            encoding = await asyncio.to_thread(model.tokenizer.encode, request.prompt or "", add_special_tokens=special)
            tokens = encoding.ids
        strings = [escape_bytes(model.token_bytes(token)) for token in tokens] if request.return_token_strs else None
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": model.context_length,
                "tokens": tokens,
                "token_strs": strings,
            }
        )


@router.post("/detokenize", **described(DetokenizeRequest, "prompt"))
async def detokenize(http: Request, dependencies: GenerationDep, catalog: CatalogDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = validated(DetokenizeRequest, read_object(await context.body()))
        model = await _model(context, catalog, request.model)
        tokens = prompt_tokens(model, request.tokens, "tokens") if request.tokens else []
        text = await asyncio.to_thread(model.tokenizer.decode, tokens, skip_special_tokens=False)
        return JSONResponse({"prompt": text})


async def _model(context: GenerationContext, catalog: ModelCatalog, name: str | None) -> ServedModel:
    """Returns the named model, or the only one. Raises ApiError."""
    if name is not None:
        return await context.model(name)
    models = list(catalog)
    if len(models) != 1:
        raise ApiError(400, "Say which model; there is not exactly one.", param="model", code="invalid_value")
    return models[0]
