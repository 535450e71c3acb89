"""What the scheduler asks of an engine, whichever runs the model: open, step, close, capacity.

An engine owns the committed text of its sessions and the target's state for it. It does not know agents, links,
deadlines or draft trees beyond the slice it is handed for one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import FinishReason, Sampling, TokenLogprobs


class RequestRejected(Exception):
    """This session can never be served here; the message tells the client why."""


class Overloaded(Exception):
    """This session could be served, but not now; perhaps in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineLost(Exception):
    """The engine broke in a step, and what it knows of any session may be wrong: its process is to end."""


@dataclass(frozen=True, slots=True)
class Request:
    """One session to open. `committed` are output tokens that exist already; `max_tokens` counts those too.

    What is computed for one session may be reused for another of the same `salt`, and for no other. `logprobs` is how
    many alternatives of each token are asked for, with their log-probabilities and its own; -1 is no such thing at all.
    """

    session: int
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    eos: frozenset[int]
    committed: tuple[int, ...] = ()
    salt: str = ""
    logprobs: int = -1


@dataclass(frozen=True, slots=True)
class ScheduledSession:
    """One session's part of a step.

    At most `rows` tokens that the engine has not seen yet (a prompt's, or the last committed one) go in; where that is
    all of them, the draft is checked behind them and at least one token is committed, or the session ends.
    """

    session: int
    num_tokens: int
    draft: DraftSlice = EMPTY_DRAFT


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did for one session.

    `unseen` tokens of its text are left to go in, 1 once it decodes. The draft had `nodes` nodes, its deepest at
    `depth`; `accepted` of `tokens` were in it. `seconds` is the session's share of the step.
    `logprobs` has one entry a token where the request asks for them.
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


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room: sessions that could still be opened, and tokens of KV in all and free."""

    sessions: int
    kv_tokens: int
    kv_free: int


def check_bounds(request: Request, vocab_size: int, longest: int) -> None:
    """Raises Refused for a request that no engine of this vocabulary and of texts up to `longest` tokens can serve."""
    if len(request.prompt) + request.max_tokens > longest:
        raise RequestRejected(f"{len(request.prompt)} prompt and {request.max_tokens} output tokens exceed {longest}")
    if not request.prompt or len(request.committed) >= request.max_tokens:
        raise RequestRejected("a session needs a prompt and a token left to make")
    named = (*request.prompt, *request.committed, *request.sampling.logit_bias)
    if not all(0 <= token < vocab_size for token in named):
        raise RequestRejected(f"a token id is outside the vocabulary of {vocab_size}")


class Engine(Protocol):
    """Not thread-safe: one thread calls all of it, but `prepare`.

    Of drafts that branch, an engine that does not `supports_trees` verifies the likeliest path alone.
    """

    supports_trees: bool
    vocab_size: int
    context_length: int

    def precompile(self, sampling: Sampling) -> None:
        """Do beforehand what would make `check` and `open` take long. From any thread; raises nothing."""
        ...

    def validate(self, request: Request) -> None:
        """Raises Refused for a request that can never be served."""
        ...

    def open(self, request: Request) -> int:
        """Begin a session; returns how many tokens are unseen. Raises Refused or Overloaded.

        A session that could only be begun by taking another one's place in the KV cache finds it overloaded.
        """
        ...

    def step(self, work: Sequence[ScheduledSession]) -> list[StepResult]:
        """One forward over all of `work`, in order of importance; what found no room is missing from the answer.

        A session that lost its place in the KV cache to another one answers with no tokens and more unseen.
        """
        ...

    def close(self, session: int) -> None:
        """End a session, finished or not, and free what it held. Unknown sessions are ignored."""
        ...

    def capacity(self) -> Capacity: ...
