"""The search for the number of streams that a server carries."""

from __future__ import annotations

import pytest

from loadtest.policy.capacity import CLOSE, MOST_STREAMS, RATES, measure_capacity, most_streams
from loadtest.settings import BenchSettings


@pytest.mark.parametrize("streams", [1, 5, 31, 100, 400])
def test_the_most_streams_with_the_rate_are_found_in_few_runs(streams: int) -> None:
    measured: list[int] = []

    def rate(n: int) -> float:
        measured.append(n)
        return min(100.0, 100.0 * streams / n)  # a server's rows are free up to a ridge

    found = most_streams(rate, [100])[100]
    assert streams / CLOSE <= found <= streams * CLOSE
    assert len(measured) == len(set(measured)) <= 16


def test_all_rates_share_their_runs() -> None:
    measured: list[int] = []

    def rate(n: int) -> float:
        measured.append(n)
        return 1000.0 / n

    found = most_streams(rate, RATES)
    assert found == {least: pytest.approx(1000 / least, rel=0.02) for least in RATES}
    assert len(measured) <= 18


def test_a_lucky_run_at_more_streams_does_not_count() -> None:
    found = most_streams(lambda n: 50.0 if n == 64 else 100.0 / n, [10])[10]
    assert 9 <= found <= 10


def test_no_stream_and_all_streams() -> None:
    assert most_streams(lambda n: 5.0, [10]) == {10: 0}
    assert most_streams(lambda n: 50.0, [10]) == {10: MOST_STREAMS}


def test_a_datacenter_alone_carries_what_its_step_costs_allow() -> None:
    options = {"acceptance": "0.75", "round_trips": "15", "draft_ms": "3", "steps": "a100-32b", "repeats": 1}
    settings = BenchSettings.model_validate(options | {"name": "policy", "systems": "datacenter_only"})
    result = measure_capacity(settings)
    [row] = result.rows
    # 24.8 tokens per second from one stream up to the ridge at 95 rows; prompts take rows too.
    assert 50 <= row["20_tokens/s"] <= 95 < row["10_tokens/s"] < 240
    assert row["30_tokens/s"] == row["40_tokens/s"] == 0
