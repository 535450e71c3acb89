"""A session with a scripted verifier and agent: which drafts, commits and losses it relays."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgedraft.tree import DraftViolation
from edgedraft.wire import Commit, Draft, Open, TokenLogprobs
from gateway.model.served_model import ServedModel
from gateway.observability.metrics import Metrics
from gateway.sessions.request import SessionRequest
from gateway.sessions.session import Session
from gateway.verifiers.health import VerifierHealth
from tests.support import toy_model
from tests.support.waiting import until


@dataclass
class FakeVerifierSession:
    """A session at a verifier that records what it is sent."""

    opened: Open
    takes_drafts: bool = True
    attempt: int = 1
    drafts: list[Draft] = field(default_factory=list)
    edges: list[bool] = field(default_factory=list)
    link: Any = field(default_factory=lambda: SimpleNamespace(health=VerifierHealth()))

    def draft(self, draft: Draft) -> bool:
        if self.takes_drafts:
            self.drafts.append(draft)
        return self.takes_drafts

    def set_agent(self, agent: str) -> None:
        self.edges.append(bool(agent))

    def close(self) -> None:
        pass

    def report_failure(self) -> None:
        pass


@dataclass
class Surroundings:
    """Verifier pool, agents' registry, the agent and its slot, all in one."""

    verifier_sessions: list[FakeVerifierSession] = field(default_factory=list)
    opened: list[Open] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    agent: str = "laptop"
    identity: str = "laptop"
    device: str = "torch cpu"
    owner: tuple[str, str] = ("tenant", "ann")

    @property
    def committed(self) -> list[int]:
        return [token for commit in self.commits for token in commit.tokens]

    def open(self, listener: Any, message: Any, *rest: Any, **_: Any) -> Any:
        if isinstance(message, Open):
            self.opened.append(message)
            return self
        self.verifier_sessions.append(FakeVerifierSession(rest[0]))
        return self.verifier_sessions[-1]

    async def wait_for_join(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def seek(self, session: Session) -> None:
        session.on_agent(cast(Any, self))

    def leave(self, session: Session) -> None:
        pass

    def seconds(self) -> float:
        return 0.0

    def restart(self, message: Open) -> None:
        self.opened.append(message)

    def commit(self, commit: Commit) -> None:
        self.commits.append(commit)

    def close(self) -> None:
        pass


def draft(epoch: int, at: int, first: int, *tokens: int) -> Draft:
    return Draft(1, epoch, at, first, list(tokens), [first - 1 + i for i in range(len(tokens))], bytes(len(tokens)))


JOB = SessionRequest(
    model=ServedModel.from_card(toy_model.card()),
    prompt=[1, 2],
    sampling=toy_model.Sampling(),
    max_tokens=50,
    eos=(),
    owner=("tenant", "ann"),
    tenant="tenant",
    edge=True,
)


@pytest.fixture
async def around(request: pytest.FixtureRequest):
    surroundings = Surroundings()
    job = replace(JOB, **getattr(request, "param", {}))
    session = Session(job, cast(Any, surroundings), cast(Any, surroundings), Metrics(), 1.0, 60.0)
    emitted: list[int] = []

    async def read() -> None:
        async with aclosing(session.run()) as commits:
            async for commit in commits:
                assert [entry.logprob for entry in commit.logprobs] == [-0.5] * len(commit.logprobs)
                emitted.extend(commit.tokens)

    task = asyncio.create_task(read())
    await until(lambda: surroundings.verifier_sessions)
    yield session, surroundings, emitted
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_new_verifier_gets_no_drafts_that_hang_from_what_it_never_saw(around) -> None:
    session, surroundings, emitted = around
    assert surroundings.verifier_sessions[0].opened.agent
    session.on_draft(draft(1, 0, 1, 5, 6))
    session.on_commit(Commit(1, 0, [5]))
    assert surroundings.committed == [5]
    session.on_verifier_closed("failed", "broken")
    session.on_draft(draft(1, 0, 3, 7))
    await until(lambda: len(surroundings.verifier_sessions) == 2)
    first, second = surroundings.verifier_sessions
    assert second.opened.committed == [5]
    assert second.opened.epoch == 1
    assert surroundings.opened[-1].committed == [5]
    assert surroundings.opened[-1].epoch == 1
    session.on_draft(draft(1, 0, 4, 8))
    session.on_draft(draft(2, 1, 1, 6))
    assert [d.first for d in first.drafts] == [1]
    assert [d.epoch for d in second.drafts] == [2]
    session.on_commit(Commit(1, 1, [6, 9]))
    await until(lambda: emitted == [5, 6, 9])
    assert len(surroundings.opened) == 2


async def test_a_reopened_session_has_two_first_steps(around) -> None:
    session, surroundings, emitted = around
    session.on_commit(Commit(1, 0, [5], seconds=0.5))
    session.on_commit(Commit(1, 1, [5], seconds=0.01))
    session.on_verifier_closed("failed", "broken")
    await until(lambda: len(surroundings.verifier_sessions) == 2)
    session.on_commit(Commit(1, 2, [6], seconds=0.75))
    await until(lambda: len(emitted) == 3)
    stats = session.stats
    assert (stats.first_steps, stats.first_seconds, stats.plain_steps, stats.plain_seconds) == (2, 1.25, 1, 0.01)


async def test_a_draft_that_a_verifier_had_no_room_for_has_the_agent_begin_again(around) -> None:
    session, surroundings, _ = around
    verifier_session = surroundings.verifier_sessions[0]
    verifier_session.takes_drafts = False
    session.on_draft(draft(1, 0, 1, 5))
    assert surroundings.opened[-1].epoch == 1
    assert len(surroundings.opened) == 2
    verifier_session.takes_drafts = True
    session.on_draft(draft(1, 0, 2, 6))
    session.on_draft(draft(2, 0, 1, 5))
    assert [d.epoch for d in verifier_session.drafts] == [2]


async def test_a_violation_reaches_whoever_sent_it_and_not_the_verifier(around) -> None:
    session, surroundings, emitted = around
    with pytest.raises(DraftViolation):
        session.on_draft(draft(1, 3, 1, 5))
    with pytest.raises(DraftViolation):
        session.on_draft(draft(1, 0, 1, toy_model.VOCAB_SIZE))
    assert surroundings.verifier_sessions[0].drafts == []
    session.on_commit(Commit(1, 0, [5, 6]))
    await until(lambda: emitted == [5, 6])


async def test_more_tokens_than_were_asked_for_are_a_verifiers_fault(around) -> None:
    session, surroundings, emitted = around
    session.on_commit(Commit(1, 0, [5] * 51, seconds=0.5))
    await until(lambda: len(surroundings.verifier_sessions) == 2)
    assert emitted == surroundings.committed == []
    assert session.stats.attempts == {1: 0.5}, "its time was computed all the same"


ASKING = {
    "sampling": toy_model.Sampling(seed=3, frequency_penalty=0.5, logit_bias={4: 1.0}, grammar="start: /a+/"),
    "logprobs": 1,
    "prediction": (5, 6, 7),
    "trace": "00-trace",
    "priority": 4,
    "share": "opaque",
    "request": "use_1",
}


@pytest.mark.parametrize("around", [ASKING], indirect=True)
async def test_an_agent_learns_neither_the_grammar_nor_log_probabilities_nor_whom_it_is_for(around) -> None:
    session, surroundings, emitted = around
    to_agent, to_verifier = surroundings.opened[0], surroundings.verifier_sessions[0].opened
    assert to_verifier.sampling == ASKING["sampling"]
    assert to_verifier.logprobs == 1
    assert to_agent.sampling == toy_model.Sampling(seed=3, frequency_penalty=0.5, logit_bias={4: 1.0})
    assert to_agent.logprobs == -1
    assert to_agent.prediction == to_verifier.prediction == [5, 6, 7]
    assert to_agent.trace == to_verifier.trace == "00-trace"
    assert (to_verifier.salt, to_verifier.priority) == ("tenant", 4)
    assert (to_verifier.share, to_verifier.request) == ("opaque", "use_1")
    assert (to_agent.salt, to_agent.priority, to_agent.share, to_agent.request) == ("", 0, "", "")
    entry = TokenLogprobs(-0.5, [5], [-0.5])
    session.on_commit(Commit(1, 0, [5, 6], nodes=2, depth=2, accepted=1, verifier_drafted=True, logprobs=[entry] * 2))
    session.on_commit(Commit(1, 2, [7], logprobs=[entry]))
    await until(lambda: emitted == [5, 6, 7])
    assert surroundings.commits == [Commit(1, 0, [5, 6], verifier_drafted=True), Commit(1, 2, [7])]


@pytest.mark.parametrize("around", [ASKING], indirect=True)
async def test_a_verifier_that_owes_log_probabilities_is_given_up(around) -> None:
    session, surroundings, emitted = around
    session.on_commit(Commit(1, 0, [5, 6]))
    await until(lambda: len(surroundings.verifier_sessions) == 2)
    assert emitted == surroundings.committed == []
