"""POST /v1/completions: text that goes on from a prompt, without a chat template."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.caller import admitted
from gateway.api.chat.route import ANSWER
from gateway.api.completions.request import CompletionRequest, parse_completion_request, prompt_tokens
from gateway.api.completions.response import body, chunks
from gateway.api.jobs import jobs_for
from gateway.api.openapi import described
from gateway.model.served_model import ServedModel
from gateway.prompt.output_grammar import build_output_grammar

router = APIRouter()


@router.post("/v1/completions", **described(CompletionRequest, *ANSWER, streams=True))
async def completions(http: Request) -> Response:
    async with admitted(http) as caller:
        request = parse_completion_request(await caller.body())
        caller.admit(len(request.prompts) * request.candidates)
        model = await caller.model(request.model)
        # Long prompts take a while; streams of others go on meanwhile.
        prompts = await asyncio.to_thread(lambda: [prompt_tokens(model, prompt) for prompt in request.prompts])
        wanted = request.output_format()
        content = await wanted.first_servable(caller.services.grammars) if wanted else None
        grammar = build_output_grammar(content, None, None, {})
        jobs = [
            job
            for prompt in prompts
            for job in jobs_for(
                request, model, prompt, caller.principal, choices=request.candidates, param="prompt", grammar=grammar
            )
        ]
        generation = caller.generation("completions", jobs, request.stops, sum(map(len, prompts)))
        echoes = [_echo(model, request, prompt) for prompt in request.prompts]
        if request.stream:
            return caller.stream(chunks(generation, request, echoes))
        return await caller.whole(body(generation, request, echoes))


def _echo(model: ServedModel, request: CompletionRequest, prompt: str | list[int]) -> str:
    """What a choice begins with."""
    if not request.echo:
        return ""
    return prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, skip_special_tokens=False)
