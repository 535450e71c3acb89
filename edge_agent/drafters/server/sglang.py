"""SGLang's native API: /generate with token ids, which returns ids with log-probabilities.

https://docs.sglang.io/basic_usage/native_api.html
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
    TokenId,
    make_places,
)
from edge_agent.drafters.server.http_client import HttpClient, UnexpectedAnswer

Entry = tuple[float, TokenId, str | None]  # log-probability, token, its text


class ModelInfo(Struct):
    model_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    tokenizer_path: Annotated[str, Meta(max_length=4096)] = ""


class ServerInfo(Struct):
    max_req_input_len: Annotated[int, Meta(ge=1, le=2**31 - 1)] = DEFAULT_CONTEXT


class MetaInfo(Struct):
    output_token_logprobs: Annotated[list[Entry], Meta(max_length=MAX_TOKENS)] = []
    output_top_logprobs: Annotated[
        list[Annotated[list[Entry], Meta(max_length=MAX_TOP)]], Meta(max_length=MAX_TOKENS)
    ] = []


class Generated(Struct):
    meta_info: MetaInfo


class Text(Struct):
    text: str


class SGLang:
    """api.ServerApi of an SGLang server."""

    def __init__(self, client: HttpClient) -> None:
        """Raises UnexpectedAnswer when it is no SGLang server, ServerError when it fails."""
        self.client = client
        info = client.get("/get_model_info", ModelInfo)
        try:
            context = client.get("/get_server_info", ServerInfo).max_req_input_len
        except UnexpectedAnswer:
            context = DEFAULT_CONTEXT
        model = info.model_path.rstrip("/").rpartition("/")[2]
        path = info.tokenizer_path or info.model_path
        self.facts = ServerFacts("sglang", model, path, DEFAULT_SESSIONS, False, context, MAX_TOP)

    def complete(self, slot: int, tokens: Sequence[int], length: int, top: int) -> list[Place]:
        """Raises ServerError."""
        answer = self.client.post(
            "/generate",
            {
                "input_ids": list(tokens),
                "sampling_params": {"max_new_tokens": max(1, length), "temperature": 0.0},
                "return_logprob": True,
                "top_logprobs_num": top,
                "stream": False,
            },
            Generated,
            CALL_SECONDS,
        ).meta_info
        if not length:
            return []
        tops = [[(token, logprob) for logprob, token, _ in top] for top in answer.output_top_logprobs]
        return make_places([token for _, token, _ in answer.output_token_logprobs], tops, length)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Raises ServerError."""
        body = {"tokens": list(tokens), "skip_special_tokens": False}
        return self.client.post("/detokenize", body, Text).text
