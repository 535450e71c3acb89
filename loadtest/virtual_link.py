"""One chat over a link of a given round trip, in virtual time: four ways of using an agent, with real parts.

The draft trees, the agent's choice of where to draft (edge_agent/drafting/draft_session.py), the verifier's scheduler
and the draft model are the real ones; what a step of the target takes and what a forward of the draft model takes are
given, and time only counts. The target's words are a recorded text (trace.py), which every way must arrive at. The
gateway is beside the verifier, so that a commit takes half a round trip to the agent, and a draft as long back;
prompts are taken in before the clock starts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.drafting.draft_threshold import DraftThreshold
from edgedraft.tree import DraftSlice
from edgedraft.wire import Commit, Draft, Open, Sampling
from loadtest.trace import Conversation
from verifier.engine.interface import Capacity, Request, ScheduledSession, StepResult
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits

WINDOW = 32  # nodes that the round schemes draft at most, as SpecEdge does
FIRST_WINDOW = 16
GREEDY = Sampling(temperature=0.0)
AGENT = "agent"

Guess = Callable[[DraftRequest], Proposal]


@dataclass(frozen=True)
class Machine:
    """What the two ends take: seconds of a target step of so many rows, and of one look of the draft model."""

    name: str
    step: Callable[[int], float]
    look: float


@dataclass
class Outcome:
    """Times at which tokens were committed, a pair (seconds, how many), and the target's steps."""

    commits: list[tuple[float, int]] = field(default_factory=list)
    steps: int = 0

    @property
    def tokens(self) -> int:
        return sum(n for _, n in self.commits)

    @property
    def seconds(self) -> float:
        """From the first commit to the last."""
        return self.commits[-1][0] - self.commits[0][0]

    @property
    def gaps(self) -> int:
        """Tokens that came after the first commit."""
        return self.tokens - self.commits[0][1]


def alone(chat: Conversation, machine: Machine) -> Outcome:
    """Datacenter-only."""
    step = machine.step(1)
    return Outcome([((i + 1) * step, 1) for i in range(len(chat.text))], len(chat.text))


def rounds(chat: Conversation, machine: Machine, trip: float, looks: int, guess: Guess, proactive: bool) -> Outcome:
    """Drafting in rounds of `looks`: a tree goes out, the agent waits for the answer, and drafts the next one.

    `proactive`: while it waits it gambles one round on the best leaf and the likeliest token behind it (SpecEdge).
    """
    outcome, now, ready = Outcome(), 0.0, 0
    committed: list[int] = []
    while len(committed) < len(chat.text):
        session = _session(chat, committed, WINDOW)
        _draft(session, looks, guess)
        now += max(0, looks - ready) * machine.look + trip / 2
        tree = session.tree.select(WINDOW)
        made = verified(tree, chat.text, len(committed))
        step = machine.step(1 + len(tree))
        now += step
        outcome.commits.append((now, len(made)))
        outcome.steps += 1
        now += trip / 2
        ready = 0
        if proactive and (gamble := min(looks + 1, int((trip + step) / machine.look))) > 0:
            leaf = _best_leaf(tree)
            path = [*chat.prompt, *committed, *leaf]
            bonus = guess(DraftRequest(1, path, len(chat.prompt) + len(committed), len(committed) + len(leaf), GREEDY))
            if bonus.tokens and made == [*leaf, bonus.tokens[0]]:
                ready = gamble - 1
        committed += made
    return outcome


def streaming(
    chat: Conversation,
    machine: Machine,
    trip: float,
    guess: Guess,
    engine: Playback,
    scheduler: Scheduler,
    pace: DraftThreshold,
) -> Outcome:
    """What this project does: the agent drafts on without waiting, and the verifier's scheduler takes what there is.

    As in edge_agent/drafting/loop.py, messages that arrive during a look of the draft model are read after it. `pace`
    is the agent's own, from chat to chat.
    """
    outcome = Outcome()
    events: list[tuple[float, int, str, Any]] = []
    order = count()

    def at(time: float, kind: str, what: Any = None) -> None:
        heapq.heappush(events, (time, next(order), kind, what))

    key = engine.begin(chat)
    session = _session(chat, [], FIRST_WINDOW, key)
    scheduler.open(key, Open(key, chat.prompt, GREEDY, len(chat.text), agent=AGENT), 0.0)
    inbox: list[Commit] = []
    stepping, looking, opened = False, False, False
    at(0.0, "wake")
    at(trip / 2, "opened")
    now, committed_at = 0.0, None
    while outcome.tokens < len(chat.text):
        now, _, kind, what = heapq.heappop(events)
        drafts: list[Draft | None] = []
        match kind:
            case "draft":
                scheduler.add_draft(key, what, now)
            case "stepped":
                stepping = False
                outcome.steps += 1
                work, made, began = what
                for commit in scheduler.update(work, made, began, now).values():
                    outcome.commits.append((now, len(commit.tokens)))
                    at(now + trip / 2, "commit", commit)
            case "opened":
                opened = True
            case "commit":
                inbox.append(what)
                if committed_at is not None:
                    pace.record_commit(now - committed_at)
                committed_at = now
            case "looked":
                looking = False
                pace.record_forward(machine.look)
                drafts.append(session.add_proposal(*what))
        if opened and not looking:
            for commit in inbox:
                drafts += session.commit(commit)
            inbox.clear()
            session.min_path = pace.min_path
            if (wanted := session.next_request()) is not None:
                looking = True
                at(now + machine.look, "looked", (wanted[0], guess(wanted[1])))
        for draft in drafts:
            if draft is not None:
                at(now + trip / 2, "draft", draft)
        if not stepping:
            plan = scheduler.schedule(now)
            if plan.scheduled:
                stepping = True
                rows = sum(item.num_tokens + len(item.draft) for item in plan.scheduled)
                at(now + machine.step(rows), "stepped", (plan.scheduled, engine.step(plan.scheduled), now))
            elif plan.wake_at is not None:
                at(max(plan.wake_at, now), "wake")
    scheduler.close(key)
    return outcome


class Playback:
    """An engine that says the recorded texts, one session at a time; prompts are in from the start."""

    supports_trees = True
    vocab_size = 1 << 31
    context_length = 1 << 20

    def __init__(self) -> None:
        self._text: list[int] = []
        self._said = 0
        self._keys = count(1)

    def begin(self, chat: Conversation) -> int:
        """The next session says this text; returns its key."""
        self._text, self._said = chat.text, 0
        return next(self._keys)

    def precompile(self, sampling: Sampling) -> None:
        pass

    def validate(self, request: Request) -> None:
        pass

    def open(self, request: Request) -> int:
        return 1

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        [item] = scheduled
        made = verified(item.draft, self._text, self._said)
        self._said += len(made)
        finish = "length" if self._said == len(self._text) else None
        depth = max(item.draft.depths, default=0)
        right = len(made) - 1 if len(item.draft) else 0
        return [StepResult(item.session, tuple(made), 1, len(item.draft), depth, right, finish=finish)]

    def close(self, session: int) -> None:
        pass

    def capacity(self) -> Capacity:
        return Capacity(1, 1, 1)


def scheduler_of(engine: Playback, machine: Machine) -> Scheduler:
    """A verifier's scheduler with the settings that verifiers have, which knows what steps take."""
    limits = SchedulerLimits(
        step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, prompt_lookup=False
    )
    scheduler = Scheduler(engine, limits)
    for rows in (1, 2, 4, 8, 16, 32, 64):
        scheduler.step_costs.record(rows, machine.step(rows))
    return scheduler


def _session(chat: Conversation, committed: Sequence[int], window: int, key: int = 1) -> DraftSession:
    return DraftSession(Open(key, chat.prompt, GREEDY, len(chat.text), list(committed), window), epoch=1)


def _draft(session: DraftSession, looks: int, guess: Guess) -> None:
    for _ in range(looks):
        wanted = session.next_request()
        if wanted is None:
            return
        session.add_proposal(wanted[0], guess(wanted[1]))


def verified(tree: DraftSlice, text: Sequence[int], said: int) -> list[int]:
    """The tokens that a verify commits behind text[:said]: the tree's right ones, and the one after them."""
    node, right = -1, 0
    while said + right < len(text):
        below = (i for i, parent in enumerate(tree.parents) if parent == node and tree.tokens[i] == text[said + right])
        node = next(below, -2)
        if node == -2:
            break
        right += 1
    return list(text[said : said + right + 1])


def _best_leaf(tree: DraftSlice) -> list[int]:
    """The tokens down to the most probable leaf."""
    leaves = set(range(len(tree))) - set(tree.parents)
    if not leaves:
        return []
    node = min(leaves, key=lambda i: tree.costs[i])
    path: list[int] = []
    while node >= 0:
        path.append(tree.tokens[node])
        node = tree.parents[node]
    return path[::-1]
