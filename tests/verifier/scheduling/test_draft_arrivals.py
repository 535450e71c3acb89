"""Statistics of draft arrivals follow what happens."""

from __future__ import annotations

import pytest

from verifier.scheduling.draft_arrivals import DraftArrivals


def test_the_means_follow_the_latest_steps() -> None:
    arrivals = DraftArrivals()
    for _ in range(200):
        arrivals.record_step(nodes=4, tokens=3, draft_ready=True)
        arrivals.record_step(nodes=0, tokens=1, draft_ready=False)
        arrivals.record_delay(0.02)
    assert arrivals.draft_ready_after_verify > 0.99
    assert arrivals.draft_ready_after_decode < 0.01
    assert (arrivals.tokens_per_verify, arrivals.nodes_per_verify, arrivals.delay) == pytest.approx(
        (3, 4, 0.02), abs=0.01
    )


def test_decode_steps_do_not_change_the_statistics_of_verify_steps() -> None:
    arrivals = DraftArrivals()
    arrivals.record_step(nodes=0, tokens=1, draft_ready=True)
    assert arrivals.draft_ready_after_decode > 0.5
    fresh = DraftArrivals()
    assert arrivals.draft_ready_after_verify == fresh.draft_ready_after_verify
    assert (arrivals.tokens_per_verify, arrivals.nodes_per_verify) == (fresh.tokens_per_verify, fresh.nodes_per_verify)


def test_the_first_delay_is_taken_as_it_is() -> None:
    arrivals = DraftArrivals()
    assert arrivals.delay is None
    arrivals.record_delay(0.5)
    assert arrivals.delay == 0.5
    arrivals.record_delay(1.5)
    assert arrivals.delay == pytest.approx(0.55)
