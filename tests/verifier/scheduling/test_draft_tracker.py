"""What frames and commits teach about an agent: its delays, what of its drafts is kept, and how they grow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgedraft.wire import Draft
from tests.verifier.counting_engine import STEP, SchedulerSim
from verifier.scheduling.draft_growth import DraftGrowth
from verifier.scheduling.session_state import SessionState


class Drafted:
    """Session 1 of an agent whose frames are given one by one. The text counts up, so token n + 1 follows n tokens."""

    def __init__(self) -> None:
        self.sim = SchedulerSim()
        self.sim.open(1, tokens=500, agent="agent")
        self.sim.step()
        self.growth = DraftGrowth()  # replaces what is known of the agent, without the prior of all agents
        self.sim.scheduler._drafts._calibrations.get("agent").growth = self.growth
        self._epoch, self._at, self._next = 0, 0, 1

    @property
    def session(self) -> SessionState:
        return self.sim.scheduler._sessions[1]

    def begin(self, tokens: Sequence[int], after: float, at: int | None = None) -> None:
        """The first frame of a new epoch, a chain behind `at` tokens, `after` seconds from now."""
        self._epoch += 1
        self._at, self._next = len(self.session.tree.committed) if at is None else at, 1
        self.go_on(tokens, after)

    def go_on(self, tokens: Sequence[int], after: float) -> None:
        """A further frame: a chain that continues the last one."""
        self.sim.now += after
        parents = [self._next - 1 + i for i in range(len(tokens))]
        message = Draft(1, self._epoch, self._at, self._next, list(tokens), parents, bytes(len(tokens)))
        self._next += len(tokens)
        self.sim.scheduler.add_draft(1, message, self.sim.now)

    def step(self) -> list[int]:
        """Run a step without waiting for drafts; returns the tokens that it commits."""
        self.sim.now += 10.0 if not self.sim.scheduler.schedule(self.sim.now).scheduled else 0.0
        return self.sim.step()[1].tokens


def test_delays_and_intervals_are_those_of_the_agents_frames() -> None:
    drafted = Drafted()
    drafted.begin([2, 3], after=0.007)
    assert drafted.growth.delay == pytest.approx(0.007)
    drafted.go_on([4], after=0.002)
    drafted.go_on([5, 99], after=0.002)
    assert drafted.growth.interval == pytest.approx(0.002)
    assert drafted.growth.resume_delay is None
    assert drafted.step() == [2, 3, 4, 5, 6], "99 contradicts"
    drafted.go_on([98], after=0.001)
    assert drafted.growth.resume_delay is None, "a frame of a draft that is of no more use"
    drafted.begin([7, 8, 9], after=0.006)
    assert drafted.step() == [7, 8, 9, 10]
    drafted.go_on([10, 11], after=0.004)
    assert drafted.growth.resume_delay == pytest.approx(0.004)
    assert drafted.growth.interval == pytest.approx(0.002), "a commit came between these frames"


def test_what_is_decoded_without_a_draft_is_kept_or_not_once_per_draft() -> None:
    drafted = Drafted()
    kept = drafted.growth.kept_after_decode
    drafted.step()
    assert drafted.session.missing_since() == (drafted.session.commit_times[1], 1), "since the first commit, one more"
    drafted.begin([2, 3], after=0.001, at=1)
    assert drafted.growth.kept_after_decode > kept
    drafted.step()
    kept = drafted.growth.kept_after_decode
    drafted.go_on([99], after=0.001)
    assert drafted.growth.kept_after_decode < kept
    kept = drafted.growth.kept_after_decode
    drafted.go_on([98, 97], after=0.001)
    assert drafted.growth.kept_after_decode == kept, "the same draft"


def test_a_draft_that_a_commit_has_used_up_goes_on_or_not() -> None:
    drafted = Drafted()
    drafted.begin([2, 3], after=0.001)
    assert drafted.step() == [2, 3, 4]
    assert not drafted.session.tree.awaits_epoch
    assert drafted.session.missing_since() == (drafted.sim.now, 0)
    drafted.go_on([4, 5], after=0.001)
    assert drafted.growth.survival > 0.5
    drafted.step()
    survival = drafted.growth.survival
    drafted.begin([7, 8], after=0.001)
    assert drafted.growth.survival < survival
    survival = drafted.growth.survival
    drafted.go_on([9, 99], after=0.001)
    drafted.step()
    drafted.begin([11], after=0.001)
    assert drafted.growth.survival == survival, "99 contradicted the draft, it was not used up"


def test_growth_is_measured_from_nothing_and_from_what_a_commit_leaves() -> None:
    drafted = Drafted()
    while (drafted.session.num_commits % 4) != 0:
        drafted.step()
    at = len(drafted.session.tree.committed)
    drafted.begin([at + 1, at + 2], after=0.001)
    drafted.go_on([at + 3], after=0.001)
    assert drafted.growth.added[0] == 2
    assert drafted.growth.added[2] == 1
    first, second = drafted.growth.gains[0], drafted.growth.gains[2]
    assert first is not None
    assert second is not None
    assert first[0] > second[0] > 0


def test_a_draft_behind_decoded_tokens_is_not_taken_for_one_from_nothing() -> None:
    drafted = Drafted()
    while (drafted.session.num_commits % 4) != 0:
        drafted.step()
    at = len(drafted.session.tree.committed)
    drafted.begin([at - 1 + 1, at + 1, at + 2], after=0.001, at=at - 1)
    assert drafted.growth.gains[0] is None
    drafted.go_on([at + 3], after=0.001)
    assert drafted.growth.added[2] == 1, "its next frame counts"


def test_no_frame_is_expected_while_the_window_is_full() -> None:
    drafted = Drafted()
    drafted.growth.record_resume_delay(0.001)
    drafted.growth.record_interval(0.001)
    drafted.begin([2, 3], after=0.001)
    wait = drafted.sim.scheduler._draft_wait

    def next_frame_in() -> float:
        now = drafted.sim.now
        return wait._forecast(drafted.session, 2.0, 0.0, now).next_frame_at - now

    assert next_frame_in() == pytest.approx(0.001)
    drafted.session.window = 2
    assert next_frame_in() == float("inf")


def test_a_draft_under_way_is_expected_sooner_than_a_new_one() -> None:
    drafted = Drafted()
    for _ in range(3):
        drafted.growth.record_survival(True)
    drafted.growth.record_delay(0.05)
    drafted.growth.record_resume_delay(0.002)
    drafted.growth.record_interval(0.003)
    drafted.begin([2, 3], after=0.001)
    drafted.step()
    wait = drafted.sim.scheduler._draft_wait
    used_up = wait._forecast(drafted.session, 0.0, 0.0, drafted.sim.now)
    assert used_up.next_frame_at - drafted.sim.now == pytest.approx(0.002)
    assert (used_up.frames, used_up.chance) == (-1.0, drafted.growth.kept_after_decode)
    drafted.go_on([99], after=0.001)
    contradicted = wait._forecast(drafted.session, 0.0, 0.0, drafted.sim.now)
    delay = drafted.growth.delay
    assert delay
    assert contradicted.next_frame_at - drafted.sim.now == pytest.approx(delay - 0.001)
    assert (contradicted.frames, contradicted.chance) == (0.0, 1.0)
    drafted.step()
    later = wait._forecast(drafted.session, 0.0, 0.0, drafted.sim.now)
    assert later.next_frame_at - drafted.sim.now == pytest.approx(delay - 0.001 - STEP, abs=1e-3)
    assert (later.frames, later.chance) == (-1.0, drafted.growth.kept_after_decode)
