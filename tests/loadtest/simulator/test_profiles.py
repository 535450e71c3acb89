"""Device profiles and computed step costs."""

from __future__ import annotations

import math

import pytest

from loadtest.simulator.profiles import LAUNCH_SECONDS, PREFILL_TOKENS, DeviceProfile, a100_steps, h100_steps


def test_a_prompt_takes_a_forward_per_chunk_or_nothing() -> None:
    assert DeviceProfile("", 0.01, "").prefill_seconds(2 * PREFILL_TOKENS + 1) == pytest.approx(0.03)
    assert DeviceProfile("", 0.01, "", prefill_tokens=math.inf).prefill_seconds(1000) == 0


def test_computed_steps_are_bound_by_memory_then_by_arithmetic() -> None:
    steps = a100_steps(14e9)
    assert steps.seconds(1) == pytest.approx(steps.seconds(8))
    assert steps.seconds(256) > 1.5 * steps.seconds(1)
    assert a100_steps(1e6).seconds(1) == pytest.approx(LAUNCH_SECONDS)


def test_an_h100_is_faster_by_its_bandwidth_then_by_its_arithmetic() -> None:
    a100, h100 = a100_steps(32e9), h100_steps(32e9)
    assert a100.seconds(1) / h100.seconds(1) == pytest.approx(3.35 / 2.04)
    assert a100.seconds(256) / h100.seconds(256) == pytest.approx(989 / 312)
