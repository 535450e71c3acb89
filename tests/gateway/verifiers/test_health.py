"""Ejection and probation of verifiers that fail."""

from __future__ import annotations

from gateway.verifiers.health import (
    BASE_EJECTION_SECONDS,
    EJECTION_FAILURES,
    MAX_EJECTION_SECONDS,
    VerifierHealth,
)


def test_failures_eject_and_a_success_ends_probation() -> None:
    now = 0.0
    health = VerifierHealth(lambda: now)
    for _ in range(EJECTION_FAILURES - 1):
        health.record_failure()
    health.record_success()
    for _ in range(EJECTION_FAILURES - 1):
        health.record_failure()
    assert not health.ejected
    health.record_failure()
    assert health.ejected
    health.record_failure()
    health.record_success()
    now = BASE_EJECTION_SECONDS + 0.1
    assert not health.ejected
    assert health.on_probation
    health.record_failure()
    now += BASE_EJECTION_SECONDS + 0.1
    assert health.ejected, "for twice as long"
    now += BASE_EJECTION_SECONDS
    health.record_success()
    assert not health.on_probation


def test_the_ejection_time_is_bounded() -> None:
    now = 0.0
    health = VerifierHealth(lambda: now)
    for _ in range(EJECTION_FAILURES + 20):
        while health.ejected:
            now += 1.0
        health.record_failure()
    ejected_at = now
    while health.ejected:
        now += 1.0
    assert now - ejected_at == MAX_EJECTION_SECONDS
