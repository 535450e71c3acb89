"""The rolling windows, in a time of the test's own."""

from __future__ import annotations

from edgedraft.wire import Commit
from gateway.observability.live import STEP_SECONDS, STEPS, Live

ANN = ("default", "ann")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_told_by_who_made_them_and_when() -> None:
    clock = Clock()
    live = Live(clock)
    live.committed(ANN, Commit(1, 0, [1, 2, 3], nodes=5, depth=4, accepted=2, seconds=0.5))
    live.committed(ANN, Commit(1, 3, [4, 5], nodes=1, depth=1, accepted=1, verifier_drafted=True))
    clock.now += STEP_SECONDS
    live.committed(ANN, Commit(1, 5, [6]))
    steps = live.told(ANN)["steps"]
    assert len(steps["edge"]) == STEPS
    assert steps["edge"][-2:] == [2, 0]
    assert steps["own"][-2:] == [1, 0]
    assert steps["plain"][-2:] == [2, 1]
    assert steps["forwards"][-2:] == [2, 1]
    assert (steps["drafted"][-2], steps["accepted"][-2], steps["drafts"][-2], steps["seconds"][-2]) == (5, 2, 1, 0.5)
    assert live.told(None)["steps"] == steps


def test_what_is_older_than_the_window_is_gone() -> None:
    clock = Clock()
    live = Live(clock)
    live.committed(ANN, Commit(1, 0, [1]))
    live.ended(ANN, "datacenter", 0.2, 0.01)
    clock.now += STEP_SECONDS * (STEPS + 1)
    told = live.told(ANN)
    assert sum(told["steps"]["plain"]) == 0
    assert told["requests"] == {"edge": 0, "mixed": 0, "datacenter": 0}
    assert told["first_text"] == {"p50": None, "p95": None}


def test_medians_leave_out_requests_without_text() -> None:
    live = Live(Clock())
    for seconds in (0.1, 0.2, 0.3, None):
        live.ended(ANN, "edge", seconds, seconds)
    assert live.told(ANN)["first_text"] == {"p50": 0.2, "p95": 0.2}


def test_a_verifier_that_claims_too_much_is_not_believed() -> None:
    live = Live(Clock())
    live.committed(ANN, Commit(1, 0, [1], nodes=9, depth=9, accepted=9))
    assert live.told(ANN)["steps"]["edge"][-1] == 1
    assert live.told(ANN)["steps"]["plain"][-1] == 0
