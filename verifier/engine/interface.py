"""The interface between the scheduler and an engine, whichever runs the model: open, step, close, capacity.

An engine owns the committed text of its sessions and the target's KV cache. It knows nothing of agents, links or
deadlines, and of a draft only the nodes that it is given for one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import FinishReason, Sampling, TokenLogprobs


class RequestRejected(Exception):
    """This session can never be served here. The message is for the client."""


class Overloaded(Exception):
    """This session cannot be served now, but perhaps in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineLost(Exception):
    """The engine broke in a step and the state of any session may be wrong: its process has to end."""


@dataclass(frozen=True, slots=True)
class Request:
    """A session to open.

    `committed` are output tokens that exist already; `max_tokens` includes them. Cached prefixes are shared between
    requests of the same `salt` only. `logprobs` is the number of alternatives per token whose log-probabilities are
    returned beside the token's own; -1 returns none at all. `prepared` is what the engine's `precompile` returned.
    """

    session: int
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    eos: frozenset[int]
    committed: tuple[int, ...] = ()
    salt: str = ""
    logprobs: int = -1
    prepared: object = None


@dataclass(frozen=True, slots=True)
class ScheduledSession:
    """One session's part of a step.

    At most `num_tokens` uncomputed tokens of its text are computed: a chunk of the prompt, or the last committed token.
    If none remain, the draft is verified after them and at least one token is committed, or the session ends.
    """

    session: int
    num_tokens: int
    draft: DraftSlice = EMPTY_DRAFT


def count_prompt_tokens(scheduled: Iterable[ScheduledSession]) -> int:
    """How many of a step's tokens are those of prompts: a session that decodes has one token besides its draft."""
    return sum(item.num_tokens for item in scheduled if item.num_tokens > 1)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did for one session.

    `tokens` were committed, `num_uncomputed` tokens of the text remain to be computed: 1 once the session decodes. The
    draft had `nodes` nodes, the deepest at `depth`; `accepted` of the tokens were in it. `seconds` is the session's
    share of the step. `logprobs` has one entry per token if the request asks for them. `failure` says why the session
    cannot go on although it is not finished.
    """

    session: int
    tokens: tuple[int, ...]
    num_uncomputed: int
    nodes: int = 0
    depth: int = 0
    accepted: int = 0
    seconds: float = 0.0
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Sessions that could still be opened; tokens that the KV cache holds, and how many of those slots are free."""

    free_sessions: int
    kv_tokens: int
    free_kv_tokens: int


def check_bounds(request: Request, vocab_size: int, max_model_len: int) -> None:
    """Raises RequestRejected for a request that no engine of this vocabulary and context length can serve."""
    if len(request.prompt) + request.max_tokens > max_model_len:
        raise RequestRejected(
            f"{len(request.prompt)} prompt and {request.max_tokens} output tokens exceed {max_model_len}"
        )
    if not request.prompt or len(request.committed) >= request.max_tokens:
        raise RequestRejected("a session needs a prompt and a token left to make")
    token_ids = (*request.prompt, *request.committed, *request.sampling.logit_bias)
    if not all(0 <= token < vocab_size for token in token_ids):
        raise RequestRejected(f"a token id is outside the vocabulary of {vocab_size}")


class Engine(Protocol):
    """Not thread-safe: one thread calls all of it, except `precompile`.

    An engine that does not support trees verifies only the most likely path of a draft that branches.
    """

    supports_trees: bool
    vocab_size: int
    context_length: int

    def precompile(self, sampling: Sampling, share: str) -> object:
        """Do in advance what would make `validate` and `open` slow, and return it for Request.prepared.

        Safe from any thread. Raises nothing. `share` is whose part of the workers this takes.
        """
        ...

    def validate(self, request: Request) -> None:
        """Raises RequestRejected for a request that can never be served.

        Overloaded for one whose grammar cannot be compiled now.
        """
        ...

    def open(self, request: Request) -> int:
        """Start a session; returns the number of its uncomputed tokens. Raises RequestRejected or Overloaded.

        Overloaded also where the session would only fit by evicting another one from the KV cache.
        """
        ...

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        """One forward over all of `scheduled`, most important sessions first. Raises EngineLost.

        A session for which there was no space has no result. A session that was evicted from the KV cache in favour of
        another has a result without tokens and with more uncomputed ones.
        """
        ...

    def close(self, session: int) -> None:
        """End a session, finished or not, and free its blocks. Unknown sessions are ignored."""
        ...

    def capacity(self) -> Capacity: ...
