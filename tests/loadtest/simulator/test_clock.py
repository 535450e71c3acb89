"""The virtual clock."""

from __future__ import annotations

from loadtest.simulator.clock import Clock


def test_callbacks_run_in_the_order_of_their_times() -> None:
    clock, seen = Clock(), list[str]()

    def early() -> None:
        seen.append("early")
        clock.call_later(0.5, lambda: seen.append("between"))

    clock.call_at(2.0, lambda: seen.append("late"))
    clock.call_at(1.0, early)
    clock.call_at(1.0, lambda: seen.append("early, scheduled later"))
    clock.run(lambda: len(seen) == 4)
    assert seen == ["early", "early, scheduled later", "between", "late"]
    assert clock.now == 2.0
