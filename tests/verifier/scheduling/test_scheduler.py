"""What goes into a step and who waits, over an engine whose target simply counts upwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgedraft.tree import DraftViolation
from edgedraft.wire import Commit, Draft, Open, Sampling
from verifier.engine.interface import Capacity, Overloaded, Request, RequestRejected, ScheduledSession, StepResult
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits

STEP = 0.04
LIMITS = SchedulerLimits(step_tokens=64, verify_nodes=8, prompt_delay=0.3, draft_wait=0.5, wait_share=0.5)


class Counting:
    """An engine whose next token is the last one plus one; prompts end in 0."""

    supports_trees = True
    vocab_size = 1000
    context_length = 1000

    def __init__(self, room: int) -> None:
        self.room = room
        self.unseen: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.ends: dict[int, int] = {}

    def precompile(self, sampling: Sampling) -> None:
        pass

    def validate(self, request: Request) -> None:
        if len(request.prompt) > self.context_length:
            raise RequestRejected("too long")

    def open(self, request: Request) -> int:
        if len(self.unseen) >= self.room:
            raise Overloaded("full")
        self.unseen[request.session] = len(request.prompt)
        self.made[request.session] = 0
        self.ends[request.session] = request.max_tokens
        return len(request.prompt)

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return [self._one(item) for item in scheduled]

    def _one(self, item: ScheduledSession) -> StepResult:
        key = item.session
        self.unseen[key] -= item.num_tokens
        if self.unseen[key]:
            return StepResult(key, (), self.unseen[key], seconds=0.02)
        tokens, accepted, node = [self.made[key] + 1], 0, -1
        for i, (token, parent) in enumerate(zip(item.draft.tokens, item.draft.parents, strict=True)):
            if parent == node and token == tokens[-1]:
                node, accepted = i, accepted + 1
                tokens.append(token + 1)
        self.made[key] = tokens[-1]
        self.unseen[key] = 1
        finish = "length" if self.made[key] >= self.ends[key] else None
        depth = max(item.draft.depths, default=0)
        return StepResult(key, tuple(tokens), 1, len(item.draft), depth, accepted, 0.01, finish)

    def close(self, session: int) -> None:
        self.unseen.pop(session, None)

    def capacity(self) -> Capacity:
        return Capacity(1, 1, 1)


class World:
    """A scheduler that knows what steps cost (by default the same for any), and the clock that it is told."""

    def __init__(
        self, limits: SchedulerLimits = LIMITS, costs: Callable[[int], float] = lambda _: STEP, room: int = 64
    ) -> None:
        self.now = 100.0
        self.scheduler = Scheduler(Counting(room), limits)
        for rows in range(1, 70):
            self.scheduler.step_costs.record(rows, costs(rows))

    def open(self, key: int, prompt: int = 1, tokens: int = 500, edge: bool = False, **more: Any) -> int | None:
        agent = "desk" if edge else ""
        message = Open(key, [0] * prompt, Sampling(temperature=0), tokens, agent=agent, **more)
        return self.scheduler.open(key, message, self.now)

    def draft(self, key: int, at: int, epoch: int, tokens: Sequence[int]) -> None:
        chain = list(range(len(tokens)))
        self.scheduler.add_draft(key, Draft(key, epoch, at, 1, list(tokens), chain, bytes(len(tokens))), self.now)

    def step(self, seconds: float = STEP) -> dict[int, Commit]:
        plan = self.scheduler.schedule(self.now)
        assert plan.scheduled, "there is work"
        began, self.now = self.now, self.now + seconds
        return self.scheduler.update(plan.scheduled, self.scheduler._engine.step(plan.scheduled), began, self.now)

    def step_or_wait(self) -> dict[int, Commit]:
        """A step, or the passing of somebody's patience."""
        plan = self.scheduler.schedule(self.now)
        if plan.scheduled:
            return self.step()
        self.now = plan.wake_at or self.now
        return {}

    def warm(self, key: int) -> int:
        """Decode until the scheduler knows what a step takes; returns how many tokens are out."""
        return [self.step()[key].at + 1 for _ in range(3)][-1]


def test_a_session_without_an_agent_is_decoded_at_once() -> None:
    world = World()
    world.open(1)
    assert [world.step()[1].tokens for _ in range(3)] == [[1], [2], [3]]


def test_a_draft_is_checked_and_what_follows_it_committed() -> None:
    world = World()
    world.open(1)
    at = world.warm(1)
    world.draft(1, at, 1, [4, 5, 6, 99])
    commit = world.step()[1]
    assert (commit.at, commit.tokens) == (3, [4, 5, 6, 7])
    assert (commit.nodes, commit.depth, commit.accepted) == (4, 4, 3)


def test_an_engine_that_checks_paths_alone_is_given_the_likeliest_one() -> None:
    world = World()
    world.scheduler._engine.supports_trees = False
    world.open(1)
    at = world.warm(1)
    # A surer guess that leads nowhere, and a less sure one with a sure chain below it.
    confidence = bytes([6, 10, 0, 0])
    world.scheduler.add_draft(1, Draft(1, 1, at, 1, [9, 4, 5, 6], [0, 0, 2, 3], confidence), world.now)
    (work,) = world.scheduler.schedule(world.now).scheduled
    assert (work.draft.tokens, work.draft.parents) == ((4, 5, 6), (-1, 0, 1))


def test_an_edge_session_waits_for_its_draft_but_not_past_its_patience() -> None:
    world = World()
    world.open(1)
    world.warm(1)
    world.scheduler.set_agent(1, "desk")
    plan = world.scheduler.schedule(world.now)
    assert not plan.scheduled
    assert plan.wake_at == pytest.approx(world.now + STEP / 2)
    world.now += STEP / 2
    assert world.step()[1].tokens == [4]
    assert world.scheduler.schedule(world.now).scheduled, "it has lapsed: no second wait until a draft comes"


def test_drafts_that_come_after_a_wait_in_vain_are_checked_all_the_same() -> None:
    world = World()
    world.open(1)
    world.warm(1)
    world.scheduler.set_agent(1, "desk")
    world.now = world.scheduler.schedule(world.now).wake_at or 0.0
    assert world.step()[1].tokens == [4]
    world.draft(1, 4, 1, [5, 6])
    assert world.step()[1].tokens == [5, 6, 7]


def test_a_draft_ends_the_wait() -> None:
    world = World()
    world.open(1)
    at = world.warm(1)
    world.scheduler.set_agent(1, "desk")
    assert not world.scheduler.schedule(world.now).scheduled
    world.now += STEP / 4
    world.draft(1, at, 1, [4])
    assert world.step()[1].tokens == [4, 5]


def drafting(world: World, at: int, gap: float, confidence: int = 0) -> None:
    """An agent joins session 1 and sends one node after the other, `gap` apart; the last one has just arrived."""
    world.scheduler.set_agent(1, "desk")
    for node in range(1, 4):
        world.now += gap
        chain = Draft(1, 1, at, node, [at + node], [node - 1], bytes([confidence]))
        world.scheduler.add_draft(1, chain, world.now)


def test_a_draft_ripens_while_more_of_it_comes_soon_and_not_longer() -> None:
    world = World()
    world.open(1)
    at = world.warm(1)
    drafting(world, at, STEP / 20)
    plan = world.scheduler.schedule(world.now)
    assert not plan.scheduled
    assert plan.wake_at == pytest.approx(world.now + 1.5 * STEP / 20)
    world.now = plan.wake_at or 0.0
    assert world.step()[1].tokens == [4, 5, 6, 7], "nothing more came"


@pytest.mark.parametrize(("gap", "confidence"), [(STEP / 3, 0), (STEP / 20, 50)])
def test_a_draft_is_checked_at_once_if_more_comes_late_or_is_improbable(gap: float, confidence: int) -> None:
    world = World()
    world.open(1)
    drafting(world, world.warm(1), gap, confidence)
    assert world.scheduler.schedule(world.now).scheduled


def test_a_draft_does_not_ripen_on_time_that_the_session_lacks() -> None:
    world = World()
    world.open(1)
    at = world.warm(1)
    session = world.scheduler._sessions[1]
    session.latency_budget = replace(session.latency_budget, saved_seconds=-STEP)
    drafting(world, at, STEP / 20)
    assert world.scheduler.schedule(world.now).scheduled


def test_a_step_that_runs_anyway_takes_along_who_would_wait() -> None:
    world = World()
    world.open(1)
    world.open(2)
    world.warm(1)
    world.scheduler.set_agent(1, "desk")
    assert [item.session for item in world.scheduler.schedule(world.now).scheduled] == [1, 2]
    world.scheduler.close(2)
    assert not world.scheduler.schedule(world.now).scheduled, "alone it waits"
    world.open(3, prompt=30)
    assert [item.session for item in world.scheduler.schedule(world.now).scheduled] == [1, 3], "a prompt is work, too"


def test_the_first_commit_tells_the_seconds_of_the_whole_prompt() -> None:
    world = World(replace(LIMITS, step_tokens=60))
    world.open(1, prompt=150)
    assert not world.step()
    assert not world.step()
    assert world.step()[1].seconds == pytest.approx(2 * 0.02 + 0.01)
    assert world.step()[1].seconds == pytest.approx(0.01)


def test_long_prompts_go_in_by_chunks_beside_running_sessions() -> None:
    world = World(replace(LIMITS, prompt_delay=99.0))
    world.open(1)
    world.warm(1)
    world.open(2, prompt=150)
    works = []
    while True:
        plan = world.scheduler.schedule(world.now)
        works.append({item.session: item.num_tokens for item in plan.scheduled})
        if 2 in world.step():
            break
    assert all(work[1] == 1 for work in works), "the running session is in every step"
    assert [work[2] for work in works] == [63, 63, 24]


def test_what_was_drafted_during_the_prompt_is_checked_with_its_end() -> None:
    world = World()
    world.open(1, prompt=20, edge=True)
    world.draft(1, 0, 1, [1, 2])
    assert world.step()[1].tokens == [1, 2, 3]


def test_long_prompts_do_not_hold_up_a_running_session() -> None:
    world = World(costs=lambda rows: STEP + 0.01 * rows)
    world.open(1)
    world.warm(1)
    world.open(2, prompt=150)
    (chunk,) = [item.num_tokens for item in world.scheduler.schedule(world.now).scheduled if item.session == 2]
    assert world.scheduler.step_costs.seconds(1 + chunk) - world.scheduler.step_costs.seconds(1) <= LIMITS.prompt_delay
    assert chunk >= 16


def test_what_costs_more_than_it_brings_is_not_checked() -> None:
    world = World(costs=lambda rows: STEP if rows <= 16 else STEP + rows)
    for key in range(1, 6):
        world.open(key)
    world.step()
    for key in range(1, 6):
        world.draft(key, 1, 1, range(2, 10))
    plan = world.scheduler.schedule(world.now)
    assert sum(1 + len(item.draft) for item in plan.scheduled) == 16


def test_an_agent_that_is_always_wrong_is_no_longer_checked() -> None:
    world = World(costs=lambda rows: STEP + 0.01 * (rows - 1))
    world.open(1, edge=True)
    lengths = []
    for i in range(30):
        world.draft(1, i, i + 1, [999, 998, 997])
        work = world.scheduler.schedule(world.now).scheduled
        lengths.append(len(work[0].draft))
        world.step(STEP + 0.01 * lengths[-1])
    assert lengths[0] == 3
    assert not any(lengths[15:])


def test_a_draft_outside_the_vocabulary_or_the_rules_ends_drafting_but_not_the_session() -> None:
    world = World()
    world.open(1, edge=True)
    with pytest.raises(DraftViolation):
        world.draft(1, 0, 1, [1000])
    world.step()
    with pytest.raises(DraftViolation):
        world.draft(1, 5, 1, [1])
    assert world.step()[1].tokens == [2]


def test_a_finished_session_is_gone_and_late_messages_are_ignored() -> None:
    world = World()
    world.open(1, tokens=2)
    world.step()
    assert world.step()[1].finish == "length"
    assert len(world.scheduler) == 0
    world.draft(1, 0, 1, [1])
    world.scheduler.set_agent(1, "desk")
    world.scheduler.close(1)


def test_who_finds_no_room_waits_in_line_and_one_more_is_turned_away() -> None:
    world = World(replace(LIMITS, max_waiting=2), room=2)
    for key in (1, 2):
        world.open(key, tokens=4)
    assert [world.open(key, tokens=4) for key in (3, 4)] == [0, 1]
    with pytest.raises(Overloaded) as turned_away:
        world.open(5)
    assert turned_away.value.retry_after >= 1
    with pytest.raises(RequestRejected):
        world.open(6, prompt=2000)
    ended = []
    for _ in range(12):
        if len(world.scheduler) or world.scheduler.num_waiting:
            ended += [key for key, commit in world.step().items() if commit.finish]
    assert ended == [1, 2, 3, 4]
    assert world.scheduler.num_waiting == 0


def test_where_there_is_no_room_higher_priorities_go_first_and_what_has_begun_before_all() -> None:
    world = World(replace(LIMITS, max_waiting=3), room=1)
    world.open(1, tokens=2)
    assert [world.open(2, tokens=2), world.open(3, tokens=2, priority=5)] == [0, 0]
    assert world.open(4, tokens=3, committed=[7]) == 0
    with pytest.raises(Overloaded):
        world.open(5, tokens=2)
    assert world.open(6, tokens=2, priority=5) == 2, "behind its equals"
    [(gone, why)] = world.scheduler.drop_expired(world.now)
    assert (gone, why.retry_after) == (2, 1), "the last of the lowest gave way"
    ended = []
    while len(world.scheduler) or world.scheduler.num_waiting:
        ended += [key for key, commit in world.step().items() if commit.finish]
    assert ended == [1, 4, 3, 6]


def test_nobody_waits_longer_than_the_limit() -> None:
    world = World(replace(LIMITS, max_wait=3.5 * STEP), room=1)
    world.open(1, tokens=500)
    world.step()
    world.open(2)
    world.step()
    world.step()
    world.open(3)
    assert world.scheduler.drop_expired(world.now) == []
    world.step()
    world.step()
    assert [key for key, _ in world.scheduler.drop_expired(world.now)] == [2]
    assert world.scheduler.drop_expired(world.now) == []
    assert world.scheduler.num_waiting == 1


def test_who_would_wait_too_long_is_told_at_once_when_to_come_again() -> None:
    """Answers come to ten tokens, a token a step: the third in line would wait for thirty steps."""
    world = World(replace(LIMITS, max_wait=25 * STEP), room=1)
    for key in range(1, 30):
        world.open(key, tokens=10)
        while len(world.scheduler):
            world.step()
    world.open(101, tokens=400)
    world.step()
    assert [world.open(102, tokens=400), world.open(103, tokens=400)] == [0, 1]
    with pytest.raises(Overloaded, match="it would take about"):
        world.open(104, tokens=400)
    assert world.open(105, tokens=400, priority=9) == 0, "its wait is a shorter one"
    assert world.open(106, tokens=400, committed=[1]) == 0, "what has begun is not turned away"


def test_a_waiting_session_can_be_drafted_for_cancelled_and_is_not_overtaken() -> None:
    world = World(room=1)
    world.open(1, tokens=2)
    for key in (2, 3, 4):
        world.open(key, tokens=6, edge=True)
    world.draft(2, 0, 1, [1, 2, 3])
    with pytest.raises(DraftViolation):
        world.draft(4, 0, 1, [5000])
    world.scheduler.close(3)
    world.step()
    assert world.step()[1].finish
    commit = world.step()[2]
    assert commit.accepted == 3, "it was drafted for while it waited"
    assert world.scheduler.num_waiting == 1
    world.scheduler.close(2)
    assert 4 in world.step()


def test_without_an_agent_what_the_text_said_before_is_the_draft_and_it_is_named_the_verifiers_own() -> None:
    world = World()
    world.scheduler.open(1, Open(1, [*range(1, 40), 7, 8], Sampling(temperature=0), 500), world.now)
    commit = [world.step()[1] for _ in range(6)][-1]
    # The engine counts up, and after 5 came 6 before.
    assert commit.accepted > 0
    assert commit.verifier_drafted
    assert commit.tokens == list(range(commit.tokens[0], commit.tokens[0] + commit.accepted + 1))


def test_prompt_lookup_can_be_switched_off() -> None:
    world = World(replace(LIMITS, prompt_lookup=False))
    world.scheduler.open(1, Open(1, [*range(1, 40), 7, 8], Sampling(temperature=0), 500), world.now)
    assert not any(world.step()[1].nodes for _ in range(8))


def test_prompt_lookup_stands_in_for_an_agents_drafts_until_they_come() -> None:
    world = World()
    world.scheduler.open(1, Open(1, [*range(1, 40), 7, 8], Sampling(temperature=0), 500, agent="desk"), world.now)
    commits = [made[1] for _ in range(8) if 1 in (made := world.step_or_wait())]
    assert any(commit.verifier_drafted and commit.accepted for commit in commits)
    at = commits[-1].at + len(commits[-1].tokens)
    world.draft(1, at, 1, [at + 1])
    commit = world.step_or_wait()[1]
    assert (commit.verifier_drafted, commit.accepted, commit.nodes) == (False, 1, 1), "what the agent says counts more"


def test_nodes_of_an_agent_that_left_still_count_as_its_own() -> None:
    world = World()
    world.open(1, edge=True)
    world.draft(1, 0, 1, [1, 2, 3])
    world.scheduler.set_agent(1, "")
    commit = world.step()[1]
    assert commit.accepted == 3
    assert not commit.verifier_drafted


def predicting(prediction: Sequence[int], agent: str = "", **more: object) -> Open:
    return Open(1, [0], Sampling(temperature=0), 500, agent=agent, prediction=list(prediction), **more)  # type: ignore[arg-type]


def test_what_the_client_predicts_is_checked_and_is_no_agents() -> None:
    world = World()
    world.open(2)
    world.warm(2)
    world.scheduler.close(2)
    world.scheduler.open(1, predicting([*range(1, 10), 77, 78, *range(12, 40)]), world.now)
    commits = [world.step()[1] for _ in range(6)]
    text = [token for commit in commits for token in commit.tokens]
    assert text == list(range(1, len(text) + 1))
    assert len(text) > 24, "it went on behind the place where the prediction was wrong"
    assert (commits[0].accepted, commits[0].verifier_drafted) == (8, True)


def test_with_an_agent_the_draft_that_promises_more_is_checked() -> None:
    world = World()
    world.open(2)
    world.warm(2)
    world.scheduler.close(2)
    world.scheduler.open(1, predicting([1, 2, 3, 90, 91], agent="desk"), world.now)
    commit = world.step()[1]
    assert (commit.tokens, commit.verifier_drafted) == ([1, 2, 3, 4], True), "nobody waits for an agent meanwhile"
    world.draft(1, 4, 1, [5, 6, 7])
    commit = world.step()[1]
    assert (commit.tokens, commit.verifier_drafted) == ([5, 6, 7, 8], False)


def test_a_prediction_that_is_wrong_is_soon_left_alone_and_costs_no_other_tenant() -> None:
    world = World(costs=lambda rows: STEP * (1 + 0.1 * rows))
    world.open(9)
    world.warm(9)
    world.scheduler.close(9)
    wrong = [number for start in range(1, 200) for number in (start, 900)]
    nodes = []
    for key in range(1, 30):
        world.scheduler.open(key, predicting(wrong, salt="a"), world.now)
        nodes.append(world.step()[key].nodes)
        world.scheduler.close(key)
    assert nodes[0] > nodes[-1]
    world.scheduler.open(50, predicting(range(1, 30), salt="b"), world.now)
    assert world.step()[50].nodes > nodes[-1]


def test_a_session_taken_over_goes_on_in_its_prediction() -> None:
    world = World()
    world.open(2)
    world.warm(2)
    world.scheduler.close(2)
    world.scheduler.open(1, predicting([900, 901, 1, 2, 3], committed=[900, 901]), world.now)
    assert world.step()[1].tokens[:2] == [1, 2]


@pytest.mark.parametrize(("prediction", "message"), [([1000], "outside the vocabulary"), ([1] * 1001, "exceeds")])
def test_a_prediction_out_of_bounds_is_refused(prediction: list[int], message: str) -> None:
    with pytest.raises(RequestRejected, match=message):
        World().scheduler.open(1, predicting(prediction), 0.0)
