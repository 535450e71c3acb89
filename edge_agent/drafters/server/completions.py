"""The OpenAI-compatible /v1/completions, where it takes token ids and returns them with log-probabilities.

vLLM does: `return_tokens_as_token_ids` writes tokens as "token_id:123". Servers that ignore it return texts, from which
ids cannot be told; they are refused.
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from edge_agent.drafters.server.api import (
    CALL_SECONDS,
    DEFAULT_CONTEXT,
    DEFAULT_SESSIONS,
    MAX_TOKENS,
    MAX_TOP,
    Place,
    ServerFacts,
    make_places,
)
from edge_agent.drafters.server.http_client import HttpClient, ServerError

OPENAI_TOP = 20  # entries per token that vLLM returns at most by default
ID_PREFIX = "token_id:"

Name = Annotated[str, Meta(max_length=1024)]


class Model(Struct):
    id: Name
    root: Name | None = None
    owned_by: Name | None = None
    max_model_len: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class Models(Struct):
    data: Annotated[list[Model], Meta(min_length=1, max_length=1024)]


class Logprobs(Struct):
    tokens: Annotated[list[str], Meta(max_length=MAX_TOKENS)]
    top_logprobs: Annotated[list[Annotated[dict[str, float], Meta(max_length=MAX_TOP)]], Meta(max_length=MAX_TOKENS)]


class Choice(Struct):
    logprobs: Logprobs | None = None


class Completion(Struct):
    choices: Annotated[list[Choice], Meta(min_length=1, max_length=1)]


class Text(Struct):
    prompt: str


class Completions:
    """api.ServerApi of a server with /v1/completions. Uses the first model that it lists."""

    def __init__(self, client: HttpClient) -> None:
        """Raises UnexpectedAnswer when there is no such API, ServerError when it fails."""
        self.client = client
        model = client.get("/v1/models", Models).data[0]
        kind = "vllm" if model.owned_by == "vllm" else "openai server"
        context = model.max_model_len or DEFAULT_CONTEXT
        self.facts = ServerFacts(kind, model.id, model.root or "", DEFAULT_SESSIONS, False, context, OPENAI_TOP)

    def complete(self, slot: int, tokens: Sequence[int], length: int, top: int) -> list[Place]:
        """Raises ServerError."""
        answer = self.client.post(
            "/v1/completions",
            {
                "model": self.facts.model,
                "prompt": list(tokens),
                "max_tokens": max(1, length),
                "temperature": 0.0,
                "logprobs": min(top, self.facts.max_top),
                "return_tokens_as_token_ids": True,
                "stream": False,
            },
            Completion,
            CALL_SECONDS,
        )
        if not length:
            return []
        found = answer.choices[0].logprobs
        if found is None:
            raise ServerError("it returns no log-probabilities")
        tops = [[(_token_id(text), logprob) for text, logprob in top.items()] for top in found.top_logprobs]
        return make_places([_token_id(text) for text in found.tokens], tops, length)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Raises ServerError."""
        body = {"model": self.facts.model, "tokens": list(tokens)}
        return self.client.post("/detokenize", body, Text).prompt


def _token_id(text: str) -> int:
    number = text.removeprefix(ID_PREFIX)
    if number == text or not number.isascii() or not number.isdecimal() or len(number) > 10:
        raise ServerError("it returns tokens as texts, without their ids, so it cannot be drafted with")
    return int(number)
