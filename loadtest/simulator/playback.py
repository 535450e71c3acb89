"""A verifier's engine that replays recorded texts: draft nodes are accepted as far as they agree with the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedraft.tree import DraftSlice
from edgedraft.wire import Sampling
from loadtest.simulator.recorded_chats import RecordedChat
from verifier.engine.interface import Capacity, Request, ScheduledSession, StepResult

MAX_SESSIONS = 1024
NEW_PROMPT = "new"  # a salt that begins so marks a prompt that is not in the prefix cache


class PlaybackEngine:
    """verifier.engine.interface.Engine. With `cached` every prompt is found in the prefix cache."""

    supports_trees = True
    vocab_size = 1 << 31
    context_length = 1 << 20

    def __init__(self, chats: Sequence[RecordedChat], cached: bool = False) -> None:
        self._cached = cached
        self._texts = {(chat.prompt, chat.sampling.seed): chat.text for chat in chats}
        self._sessions: dict[int, _Session] = {}

    def precompile(self, sampling: Sampling, share: str) -> object:
        return None

    def validate(self, request: Request) -> None:
        pass

    def open(self, request: Request) -> int:
        text = self._texts[request.prompt, request.sampling.seed]
        computed = self._cached or not request.salt.startswith(NEW_PROMPT)
        num_uncomputed = 1 if computed else len(request.prompt) + len(request.committed)
        self._sessions[request.session] = _Session(text, len(request.committed), num_uncomputed, request.eos)
        return num_uncomputed

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return [self._step_one(item) for item in scheduled]

    def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    def capacity(self) -> Capacity:
        return Capacity(MAX_SESSIONS - len(self._sessions), 1 << 20, 1 << 20)

    def _step_one(self, item: ScheduledSession) -> StepResult:
        session = self._sessions[item.session]
        if item.num_tokens < session.num_uncomputed:
            session.num_uncomputed -= item.num_tokens
            return StepResult(item.session, (), session.num_uncomputed)
        tokens = verify_recorded(item.draft, session.text, session.generated)
        session.generated += len(tokens)
        session.num_uncomputed = 1
        finish = None
        if session.generated == len(session.text):
            finish = "stop" if session.text[-1] in session.eos else "length"
        depth = max(item.draft.depths, default=0)
        accepted = len(tokens) - 1 if len(item.draft) else 0
        return StepResult(item.session, tuple(tokens), 1, len(item.draft), depth, accepted, finish=finish)


@dataclass
class _Session:
    text: Sequence[int]
    generated: int
    num_uncomputed: int
    eos: frozenset[int]


def verify_recorded(tree: DraftSlice, text: Sequence[int], generated: int) -> Sequence[int]:
    """Tokens that a verify commits behind text[:generated]: the accepted path and one more."""
    node, accepted = -1, 0
    while generated + accepted < len(text):
        right = text[generated + accepted]
        children = (i for i, parent in enumerate(tree.parents) if parent == node and tree.tokens[i] == right)
        node = next(children, -2)
        if node == -2:
            break
        accepted += 1
    return text[generated : generated + accepted + 1]
