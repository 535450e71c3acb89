"""The order in which shares are served, in virtual time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgedraft.workers.fair_queue import COSTLY_SECONDS, FairQueue, _Share
from tests.support.processor_time import assert_linear


def serve(queue: FairQueue[float], seconds: float) -> Counter[str]:
    """One worker serves the queue for so long; a job is the seconds that it takes. Returns the seconds per share."""
    served = Counter[str]()
    while seconds > 0 and (taken := queue.take()):
        share, job, charged = taken
        queue.finish(share, charged, job)
        served[share] += job  # type: ignore[assignment]
        seconds -= job
    return served


def test_a_share_gets_its_part_of_the_time_and_not_of_the_jobs() -> None:
    queue = FairQueue[float](1)
    for _ in range(1000):
        queue.put("short", 0.01)
    for _ in range(100):
        queue.put("long", 1.0)
    served = serve(queue, 20)
    assert abs(served["short"] - served["long"]) <= 1.0


def test_weights() -> None:
    queue = FairQueue[float](1)
    for _ in range(1000):
        queue.put("light", 0.1)
        queue.put("heavy", 0.1, weight=3.0)
    served = serve(queue, 40)
    assert 29 <= served["heavy"] <= 31


def test_a_share_alone_gets_everything_and_saves_nothing_up() -> None:
    queue = FairQueue[float](1)
    for _ in range(200):
        queue.put("early", 0.1)
    assert serve(queue, 10)["early"] > 9.9
    for _ in range(200):
        queue.put("late", 0.1)
    served = serve(queue, 4)
    assert abs(served["early"] - served["late"]) <= 0.21


def test_a_newcomer_goes_before_the_backlog_of_others() -> None:
    queue = FairQueue[float](1)
    for _ in range(100):
        queue.put("flood", 2.0)
    serve(queue, 2)
    queue.put("newcomer", 0.001)
    taken = queue.take()
    assert taken
    assert taken[0] == "newcomer"


def test_a_share_with_costly_jobs_leaves_a_worker_to_others() -> None:
    queue = FairQueue[float](2)
    for _ in range(9):
        queue.put("costly", 2.0)
    share, _, charged = queue.take() or ("", 0.0, 0.0)
    queue.finish(share, charged, 2.0)
    assert queue.take()
    assert queue.take() is None, "one of two workers is kept"
    queue.put("other", 0.001)
    assert (queue.take() or ("",))[0] == "other"
    assert queue.take() is None, "both are busy"


def test_shares_with_costly_jobs_leave_a_worker_to_others_together() -> None:
    queue = FairQueue[float](3)
    for share in ("one", "two", "three"):
        queue.put(share, 2.0)
        serve(queue, 2.0)
        queue.put(share, 2.0)
    running = [queue.take(), queue.take()]
    assert all(running)
    assert queue.take() is None, "one of three workers is kept"
    queue.put("newcomer", 2.0)  # nobody knows yet what its jobs take
    assert (queue.take() or ("",))[0] == "newcomer"
    assert running[0]
    queue.finish(running[0][0], running[0][2], 2.0)
    assert (queue.take() or ("",))[0] == "three"


def test_a_share_whose_jobs_become_cheap_is_held_back_no_more() -> None:
    queue = FairQueue[float](2)
    queue.put("key", 0.1)
    serve(queue, 0.1)
    for _ in range(40):
        queue.put("key", 0.001)
    (_, _, first), second = queue.take() or ("", 0.0, 0.0), queue.take()
    assert (first, second) == (0.1, None)
    queue.finish("key", first, 0.001)
    while (taken := queue.take()) and taken[2] >= COSTLY_SECONDS:
        queue.finish("key", taken[2], 0.001)
    assert taken
    assert queue.take(), "both workers are its own"


def test_a_share_that_became_cheap_while_it_waited_is_held_back_no_more() -> None:
    queue = FairQueue[float](3)
    for share in ("one", "two"):
        queue._shares[share] = _Share(share, 0.0, mean=2.0)
    queue.put("key", 0.0)
    queue.put("key", 0.0)
    assert [queue.take(), queue.take()] == [("key", 0.0, 0.0)] * 2
    queue.finish("key", 0.0, COSTLY_SECONDS + 0.0001)
    for share in ("one", "two"):
        queue.put(share, 2.0)
        assert (queue.take() or ("",))[0] == share
    queue.put("key", 0.0)  # while it is costly
    queue.finish("key", 0.0, COSTLY_SECONDS - 0.01)  # on average just not any more
    assert not queue._shares["key"].is_costly
    assert (queue.take() or ("",))[0] == "key", "the last worker is for cheap ones"


def test_a_job_that_took_less_than_was_charged_brings_the_next_one_forward() -> None:
    queue = FairQueue[float](1)
    queue.put("early", 1.0)
    serve(queue, 1.0)
    for _ in range(2):
        queue.put("early", 1.0)
    share, _, charged = queue.take() or ("", 0.0, 0.0)
    queue.put("other", 1.0)  # at the time of the job that was started last
    queue._shares["other"].virtual += charged / 2
    queue._shares["other"].turn = None
    queue._queue(queue._shares["other"])
    queue.finish(share, charged, 0.0)
    assert (queue.take() or ("",))[0] == "early"


def test_turns_that_no_longer_count_do_not_pile_up() -> None:
    queue = FairQueue[float](1)
    queue.put("key", 1.0)
    serve(queue, 1.0)
    queue.put("key", 0.0)
    for _ in range(1000):  # each is charged more than it takes
        queue.put("key", 0.0)
        share, _, charged = queue.take() or ("", 0.0, 0.0)
        queue.finish(share, charged, 0.0)
    assert sum(map(len, queue._turns.values())) < 10


STEP = st.tuples(
    st.sampled_from(["put", "put", "take", "finish", "remove"]), st.integers(0, 5), st.sampled_from([0, 0.01, 1])
)


@given(st.integers(1, 4), st.lists(STEP, max_size=200))
def test_the_share_that_is_furthest_behind_goes_next(workers: int, steps: list[tuple[str, int, float]]) -> None:
    queue = FairQueue[int](workers)
    running: list[tuple[str, float]] = []
    waiting: list[tuple[str, int]] = []
    for number, (step, index, seconds) in enumerate(steps):
        share = f"share {index}"
        if step == "put":
            queue.put(share, number, weight=1.0 + index)
            waiting.append((share, number))
        elif step == "finish" and running:
            queue.finish(*running.pop(index % len(running)), seconds)
        elif step == "remove" and waiting:
            assert queue.remove(*waiting.pop(index % len(waiting)))
        elif step == "take":
            costly = sum(charged >= COSTLY_SECONDS for _, charged in running)
            may_start = {
                name: entry.virtual
                for name, entry in queue._shares.items()
                if any(name == other for other, _ in waiting)
                and (entry.mean < COSTLY_SECONDS or costly < max(1, workers - 1))
            }
            taken = queue.take() if len(running) < workers else None
            assert (taken is None) == (not may_start or len(running) == workers)
            if taken:
                name, job, charged = taken
                assert may_start[name] == min(may_start.values())
                assert job == next(job for other, job in waiting if other == name)
                waiting.remove((name, job))
                running.append((name, charged))
        assert len(queue) == len(waiting)
        assert sum(map(len, queue._turns.values())) <= 4 * len(queue._shares) + 2


def test_taking_a_job_does_not_look_at_all_shares() -> None:
    def serve_each(shares: int) -> None:
        queue = FairQueue[int](2)
        for number in range(shares):
            queue.put(f"share {number}", 0)
        for _ in range(shares):
            share, _, charged = queue.take() or ("", 0, 0.0)
            queue.finish(share, charged, 0.001)
            len(queue)

    assert_linear(serve_each, 3200)


def test_a_share_with_cheap_jobs_takes_all_workers() -> None:
    queue = FairQueue[float](2)
    for _ in range(9):
        queue.put("cheap", 0.001)
    share, _, charged = queue.take() or ("", 0.0, 0.0)
    queue.finish(share, charged, 0.001)
    assert queue.take()
    assert queue.take()


def test_jobs_of_a_share_keep_their_order_and_can_be_removed() -> None:
    queue = FairQueue[str](1)
    for name in "abc":
        queue.put("key", name)
    assert queue.remove("key", "b")
    assert not queue.remove("key", "b")
    assert not queue.remove("nobody", "b")
    assert len(queue) == queue.waiting("key") == 2
    assert [(queue.take() or ("", ""))[1]] == ["a"]
    assert queue.clear() == ["c"]
    assert len(queue) == 0
