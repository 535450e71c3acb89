"""Token buckets of one process."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.rate_limits import MemoryRateStore, Use


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 150), st.integers(-50, 50)), max_size=40))
def test_a_bucket_grants_no_more_than_its_rate(steps: list[tuple[float, int, int]]) -> None:
    now, taken = 0.0, 0

    async def drive() -> None:
        nonlocal now, taken
        rates = MemoryRateStore(lambda: now)
        for pause, amount, settled in steps:
            now += pause
            answer = (await rates.take([Use("a", amount, 100)]))[0]
            assert 0 <= answer.remaining <= 100
            assert answer.granted == (answer.wait == 0.0)
            if answer.granted:
                taken += amount
                given_back = min(amount, settled)
                rates.charge([Use("a", -given_back, 100)])
                taken -= given_back
            assert taken <= 100 + now * 100 / 60 + 50 + 1e-6  # the last one may have been larger than predicted

    asyncio.run(drive())


async def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.limits.rate_limits.MAX_BUCKETS", 10)
    rates = MemoryRateStore(lambda: 0.0)
    for number in range(50):
        await rates.take([Use(f"k{number}", number % 2, 10)])
    assert len(rates._buckets) <= 10
