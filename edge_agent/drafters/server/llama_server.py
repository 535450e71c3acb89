"""llama-server of llama.cpp: /completion with token ids, `n_probs` and a slot per session.

https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from edge_agent.drafters.server.api import (
    CALL_SECONDS,
    MAX_TOKENS,
    MAX_TOP,
    Place,
    ServerFacts,
    TokenId,
    check_length,
    make_place,
)
from edge_agent.drafters.server.http_client import HttpClient, ServerError

MAX_SLOTS = 256
# A token that ends inside of a character has no probabilities in an answer that is not streamed. It is followed by the
# rest of the character, so it is proposed alone, with this probability.
PART_OF_CHARACTER = 0.5


class Generation(Struct):
    n_ctx: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Props(Struct):
    default_generation_settings: Generation
    total_slots: Annotated[int, Meta(ge=1)]
    model_path: Annotated[str, Meta(max_length=4096)] = ""


class TokenLogprob(Struct):
    id: TokenId
    logprob: float


class TokenLogprobs(Struct):
    id: TokenId
    top_logprobs: Annotated[list[TokenLogprob], Meta(max_length=MAX_TOP)]


class Completion(Struct):
    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]
    completion_probabilities: Annotated[list[TokenLogprobs], Meta(max_length=MAX_TOKENS)] = []


class Text(Struct):
    content: str


class LlamaServer:
    """api.ServerApi of a llama-server."""

    def __init__(self, client: HttpClient) -> None:
        """Raises UnexpectedAnswer when it is no llama-server, ServerError when it fails."""
        self.client = client
        props = client.get("/props", Props)
        # Its owner's own chats get the last slot: a session that waits for one is not drafted.
        slots = max(1, min(props.total_slots, MAX_SLOTS) - 1)
        model = props.model_path.replace("\\", "/").rpartition("/")[2]
        self.facts = ServerFacts(
            "llama-server", model, props.model_path, slots, True, props.default_generation_settings.n_ctx, MAX_TOP
        )

    def complete(self, slot: int, tokens: Sequence[int], length: int, top: int) -> list[Place]:
        """Raises ServerError."""
        answer = self.client.post(
            "/completion",
            {
                "prompt": list(tokens),
                "id_slot": slot,
                "n_predict": length,
                "n_probs": top if length else 0,
                "cache_prompt": True,
                "stream": False,
                # Whatever the server's defaults: the most likely token, by probabilities before any sampling.
                "samplers": ["top_k"],
                "top_k": 1,
                "temperature": 0.0,
                "post_sampling_probs": False,
                "return_tokens": True,
                "response_fields": ["tokens", "completion_probabilities"],
            },
            Completion,
            CALL_SECONDS,
        )
        if not length:
            return []
        places = list(_places(answer))
        check_length(places, length)
        return places

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Raises ServerError."""
        return self.client.post("/detokenize", {"tokens": list(tokens)}, Text).content


def _places(answer: Completion) -> list[Place]:
    known = iter(answer.completion_probabilities)
    row = next(known, None)
    places: list[Place] = []
    for token in answer.tokens:
        if row is not None and row.id == token:
            places.append(make_place(token, [(entry.id, entry.logprob) for entry in row.top_logprobs]))
            row = next(known, None)
        else:
            places.append(Place(token, ((token, math.log(PART_OF_CHARACTER)),)))
    if row is not None:
        raise ServerError("it returns probabilities of tokens that it did not choose")
    return places
