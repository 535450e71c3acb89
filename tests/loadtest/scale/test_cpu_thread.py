"""One thread in virtual time."""

from __future__ import annotations

from loadtest.scale.cpu_thread import CpuThread
from loadtest.simulator.clock import Clock


def test_a_thread_works_on_one_piece_after_the_other() -> None:
    clock, done = Clock(), list[tuple[str, float]]()
    thread = CpuThread(clock, speed=0.5)
    for name, seconds in (("long", 2.0), ("short", 0.5), ("none", 0.0)):
        thread.run(seconds, lambda name=name: done.append((name, clock.now)))
    clock.run(lambda: len(done) == 3)
    assert done == [("long", 4.0), ("short", 5.0), ("none", 5.0)]
    assert (thread.busy, thread.waits, thread.wakes) == (2.5, [0.0, 4.0, 5.0], 1)


def test_a_start_from_idle_costs_extra() -> None:
    clock, done = Clock(), list[float]()
    thread = CpuThread(clock, wake_seconds=0.5)
    for at in (0.0, 1.0, 5.0):
        clock.call_at(at, lambda: thread.run(1.0, lambda: done.append(clock.now)))
    clock.run(lambda: False)
    assert done == [1.5, 2.5, 6.5]
    assert (thread.busy, thread.wakes) == (4.0, 2)
