"""What a drafter needs of a model server, whatever its API, and the checks of what it answers.

llama_server.py, completions.py and sglang.py are such APIs; identify.py finds out which one a server has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from msgspec import Meta

from edge_agent.drafters.server.http_client import HttpClient, ServerError

CALL_SECONDS = 10.0  # for one completion, after which the server counts as failed
DEFAULT_CONTEXT = 2048  # tokens, where a server does not say
DEFAULT_SESSIONS = 16  # at once, of a server that batches them as they come
MAX_TOP = 128  # entries that an answer may have for one token
MAX_TOKENS = 64  # that an answer may have
MAX_LOGPROB = 1e-3  # rounding may bring a log-probability above 0
MAX_MASS = 1.01  # of the probabilities of one place

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


@dataclass(frozen=True, slots=True)
class Place:
    """One generated token: the token that the server chose, and the most likely ones with their log-probabilities.

    `top` is in descending order and holds `token`.
    """

    token: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself.

    `kind` names its API (edgedraft/devices.py), `model` is the name of the model that it serves. `tokenizer_path` is
    where the model or its tokenizer comes from (a file, a folder or a hub name), empty if it does not say. `slots` are
    the sessions that may be drafted for at once, each of which keeps its own KV cache if `pinned`. `max_context` is in
    tokens, `max_top` the most entries that may be asked for per token.
    """

    kind: str
    model: str
    tokenizer_path: str
    slots: int
    pinned: bool
    max_context: int
    max_top: int


class ServerApi(Protocol):
    """An API of model servers; any thread may use it. All methods raise ServerError."""

    facts: ServerFacts
    client: HttpClient

    def complete(self, slot: int, tokens: Sequence[int], length: int, top: int) -> list[Place]:
        """Up to `length` tokens after `tokens`, the most likely one each time. With `length` 0 it only prefills."""
        ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of these tokens."""
        ...


def make_place(token: int, top: Sequence[tuple[int, float]]) -> Place:
    """A checked Place. Raises ServerError for what no language model computes."""
    ordered = tuple(sorted(top, key=lambda entry: -entry[1]))
    if any(not math.isfinite(logprob) or logprob > MAX_LOGPROB for _, logprob in ordered):
        raise ServerError("it returns log-probabilities that are none")
    ids = {number for number, _ in ordered}
    if len(ids) < len(ordered) or len(ordered) > MAX_TOP:
        raise ServerError("it returns a token twice, or more tokens than were asked for")
    if token not in ids:
        raise ServerError("it chose a token that is not among its most likely ones")
    if sum(math.exp(min(0.0, logprob)) for _, logprob in ordered) > MAX_MASS:
        raise ServerError("its probabilities add up to more than 1")
    return Place(token, ordered)


def make_places(tokens: Sequence[int], tops: Sequence[Sequence[tuple[int, float]]], length: int) -> list[Place]:
    """The checked places of an answer of at most `length` tokens. Raises ServerError."""
    if len(tokens) != len(tops):
        raise ServerError("it returns log-probabilities that do not fit its tokens")
    places = [make_place(token, top) for token, top in zip(tokens, tops, strict=True)]
    check_length(places, length)
    return places


def check_length(places: Sequence[Place], length: int) -> None:
    """Raises ServerError when more tokens were returned than asked for, or none at all."""
    if len(places) > length or not places:
        raise ServerError(f"it returned {len(places)} tokens with log-probabilities where {length} were asked for")
