"""Reads from a gateway's /metrics how long its event loop was held."""

from __future__ import annotations

from loadtest.metrics import read_metrics

# Seconds. Invariant 6 allows 20 ms, which the chaos run holds on a quiet machine. Processor time is no fixed measure of
# the work, however: beside other programs that fill caches and memory bus, the same instructions and page faults take
# up to four times as long. These attacks hold the loop for 5 to 10 ms on a quiet machine, and for hundreds of
# milliseconds to seconds where the part that they aim at is done in the event loop.
UNDER_ATTACK = 0.1


def longest_hold(url: str) -> float:
    """Seconds, within the last minute."""
    return read_metrics(url)["edgedraft_gateway_event_loop_held_seconds"]


def assert_never_held(url: str, seconds: float = UNDER_ATTACK) -> None:
    """That the event loop of the gateway at this URL was held for no longer within the last minute, on any machine."""
    held = longest_hold(url)
    assert held <= seconds, f"the gateway's event loop was held for {held * 1000:.0f} ms; its log says by what"
