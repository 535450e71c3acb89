"""POST /v1/completions: continues prompts, without a chat template."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.chat.route import RESPONSE_FIELDS
from gateway.api.completions.request import CompletionRequest, parse_completion_request, prompt_tokens
from gateway.api.completions.response import CompletionBody, CompletionStream
from gateway.api.dependencies import GenerationDep
from gateway.api.generation_context import admit_request
from gateway.api.openapi import described
from gateway.api.session_requests import build_session_requests
from gateway.model.served_model import ServedModel
from gateway.prompt.output_grammar import build_output_grammar

router = APIRouter()


@router.post("/v1/completions", **described(CompletionRequest, *RESPONSE_FIELDS, streams=True))
async def completions(http: Request, dependencies: GenerationDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = parse_completion_request(await context.body())
        context.reserve(len(request.prompts) * request.candidates)
        model = await context.model(request.model)
        # In a thread, because encoding long prompts would hold up other streams.
        prompts = await asyncio.to_thread(lambda: [prompt_tokens(model, prompt) for prompt in request.prompts])
        output_format = request.output_format()
        content = await output_format.first_servable(dependencies.grammars) if output_format else None
        grammar = build_output_grammar(content, None, None, {})
        sessions = [
            session
            for prompt in prompts
            for session in build_session_requests(
                request, model, prompt, context.principal, choices=request.candidates, param="prompt", grammar=grammar
            )
        ]
        generation = context.generation(
            "completions", sessions, request.stops, sum(map(len, prompts)), stream=bool(request.stream)
        )
        echoes = [_echo(model, request, prompt) for prompt in request.prompts]
        if request.stream:
            return context.stream(generation, CompletionStream(generation, request, echoes))
        return await context.complete(generation, CompletionBody(generation, request, echoes))


def _echo(model: ServedModel, request: CompletionRequest, prompt: str | list[int]) -> str:
    """The prompt's text if the request has `echo`, else ""."""
    if not request.echo:
        return ""
    return prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, skip_special_tokens=False)
