"""A model server as a drafter: one call drafts a chain of tokens, with siblings at each place.

Calls run in threads, one per session at a time. `propose` waits for them for a moment only and returns INCOMPLETE for
what is not there yet, so that a slow server delays neither other drafters nor commits. How long a chain is asked for is
decided in chains.py.

This module does not decide where in a tree to draft or what is sent (drafting/draft_session.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.proposals.from_top_tokens import is_plain_greedy, num_top_tokens
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edge_agent.drafters.server.api import Place, ServerApi
from edge_agent.drafters.server.chains import MAX_CHAIN, ChainLength, propose_chain
from edge_agent.drafters.server.connection import ServerConnection
from edge_agent.drafters.server.http_client import ServerError

PATIENCE = 0.1  # seconds that `propose` waits for calls
PREFILL_CHUNK = 512  # prompt tokens of one call
SHORT_PREFILL = 8  # tokens: a call that computes more of the text tells nothing of what a chain costs
MAX_CALLS, MAX_SESSION_CALLS = 16, 4  # at a time, of all sessions and of one


@dataclass(frozen=True, slots=True)
class _Call:
    """A call in flight, or just ended. `prefilled` is the end of a chunk of a long context, None for a chain.

    `typical` is False when it has more to compute than a chain.
    """

    api: ServerApi
    request: DraftRequest
    prefilled: int | None
    typical: bool
    answer: Future[tuple[list[Place], float]]


@dataclass(slots=True)
class _Session:
    """`num_cached` are tokens of its context that its slot holds, at least, in this `generation` of the connection.

    `slot` is None while other sessions have them all.
    """

    slot: int | None = None
    num_cached: int = 0
    generation: int = 0
    calls: list[_Call] = field(default_factory=list)


class ServerDrafter:
    """Drafts with a ServerConnection. Sessions beyond the server's slots get NO_PROPOSAL until one is free."""

    def __init__(self, connection: ServerConnection, vocab_size: int) -> None:
        """Tokens at or above the target's `vocab_size` are not proposed."""
        self._connection = connection
        self._vocab_size = vocab_size
        api = connection.api()
        slots = api.facts.slots if api else 1
        self._free = list(range(slots))
        self._sessions: dict[int, _Session] = {}
        self._closed: list[_Session] = []  # with calls that have not ended
        self._token_counts = SessionTokenCounts()
        self._length = ChainLength()
        self._pool = ThreadPoolExecutor(min(slots, MAX_CALLS), thread_name_prefix="draft server")

    def open(self, session: int) -> None:
        self.close(session)
        self._sessions[session] = _Session()

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._token_counts.remove(session)
        if session in self._sessions:
            self._closed.append(self._sessions.pop(session))

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return NO_PROPOSAL for what cannot be drafted, INCOMPLETE for what takes longer than PATIENCE."""
        api = self._connection.api()
        for request in requests:
            session = self._sessions.get(request.session)
            if api is not None and session is not None and self._can_draft(api, request):
                self._take_slot(session)
                self._start(session, api, request)
        open_sessions = [self._sessions[number] for number in {r.session for r in requests} & self._sessions.keys()]
        calls = [call for session in open_sessions for call in session.calls]
        waiting = any(session.slot is None for session in open_sessions)
        awaited = [*calls, *(call for session in self._closed for call in session.calls if waiting)]
        wait([call.answer for call in awaited], timeout=PATIENCE)
        ended = {id(call): call for call in calls if call.answer.done()}
        for call in ended.values():  # those of a text that was left in the meantime, too
            if isinstance(error := call.answer.exception(), ServerError):
                self._connection.fail(call.api, error)
        proposals = [self._proposal(api, request) for request in requests]
        for session in open_sessions:
            session.calls = [call for call in session.calls if id(call) not in ended]
        return proposals

    def _take_slot(self, session: _Session) -> None:
        """Give the session a slot, unless all are taken: those of closed sessions are free once their calls end."""
        if session.slot is None:
            ended = [old for old in self._closed if all(call.answer.done() for call in old.calls)]
            self._closed = [old for old in self._closed if old not in ended]
            self._free += [old.slot for old in ended if old.slot is not None]
            session.slot = self._free.pop() if self._free else None

    def _can_draft(self, api: ServerApi, request: DraftRequest) -> bool:
        return 0 < len(request.context) < api.facts.max_context - MAX_CHAIN

    def _start(self, session: _Session, api: ServerApi, request: DraftRequest) -> None:
        """Start a call for this request, unless it has one or must wait for others of its session."""
        if session.slot is None or _find(session, request) is not None:
            return
        generation = self._connection.generation
        if session.generation != generation:
            session.generation, session.num_cached = generation, 0
        run = min(session.num_cached, len(request.context) - 1)
        long = len(request.context) - run > PREFILL_CHUNK
        running = [call for call in session.calls if not call.answer.done()]
        others = any(call.request.num_committed != request.num_committed for call in running)
        if running and (long or (others and api.facts.pinned) or running[-1].prefilled is not None):
            return
        if len(running) >= MAX_SESSION_CALLS:
            return
        if long:
            prefilled, length = run + PREFILL_CHUNK, 0
        else:
            prefilled, length = None, self._length.choose(is_plain_greedy(request.sampling))
        top = min(num_top_tokens(request.sampling), api.facts.max_top)
        answer = self._pool.submit(_complete, api, session.slot, request.context[:prefilled], length, top)
        typical = request.num_committed - run <= SHORT_PREFILL
        session.calls.append(_Call(api, request, prefilled, typical, answer))

    def _proposal(self, api: ServerApi | None, request: DraftRequest) -> Proposal:
        session = self._sessions.get(request.session)
        if api is None or session is None or not self._can_draft(api, request):
            return NO_PROPOSAL
        if session.slot is None:
            return INCOMPLETE if self._closed else NO_PROPOSAL
        call = _find(session, request)
        drafted = None if call is None else _num_drafted_since(call, request)
        if call is None or drafted is None or not call.answer.done():
            return INCOMPLETE
        if isinstance(call.answer.exception(), ServerError):
            return NO_PROPOSAL
        places, seconds = call.answer.result()
        if call.prefilled is not None:
            session.num_cached = call.prefilled
            return INCOMPLETE
        # The drafted path after the committed text may be dropped, and what replaces it may be longer.
        session.num_cached = request.num_committed
        proposal, worth = propose_chain(places[drafted:], request, self._vocab_size, self._token_counts)
        if call.typical:
            self._length.record_call(len(places), seconds)
        for value in worth:
            self._length.record_place(is_plain_greedy(request.sampling), value)
        return proposal


def _complete(api: ServerApi, slot: int, context: list[int], length: int, top: int) -> tuple[list[Place], float]:
    """Places and seconds of one call, in a thread. Raises ServerError."""
    start = time.perf_counter()
    places = api.complete(slot, context, length, top)
    return places, time.perf_counter() - start


def _find(session: _Session, request: DraftRequest) -> _Call | None:
    """The session's call whose answer is of use for this request, now or later.

    It need not be for the same text: commits arrive while it runs, and what it drafted behind them is still good.
    """
    return next((call for call in session.calls if _num_drafted_since(call, request) is not None), None)


def _num_drafted_since(call: _Call, request: DraftRequest) -> int | None:
    """How many of the tokens that the call drafted are in the request's context; None if it is of no use for it."""
    known = call.request.context[: call.prefilled]
    if request.context[: len(known)] != known:
        return None
    since = request.context[len(known) :]
    if call.prefilled is not None or not since:
        return 0
    if not call.answer.done() or call.answer.exception() is not None:
        return None
    chain = [place.token for place in call.answer.result()[0]]
    return len(since) if chain[: len(since)] == since and len(chain) > len(since) else None
