"""Admission by a key's limits, without a gateway: concurrency, budget, request and token rates, headers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.accounts import KeyLimits, Principal
from gateway.http.errors import ApiError
from gateway.ledger import Ledger, Prices
from gateway.limits.admission import DEFAULT_OUTPUT_TOKENS, Admission, _duration
from gateway.limits.rate_limits import MemoryRateStore
from gateway.storage.database import Database


def principal(**limits: int) -> Principal:
    return Principal("key_1", "ann", "acme", frozenset({"inference"}), KeyLimits(**limits))


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    ledger = Ledger(database, Prices())
    await ledger.open()
    yield ledger
    await ledger.close()


@pytest.fixture
def admission(ledger: Ledger) -> Admission:
    return Admission(KeyLimits(concurrent=2), MemoryRateStore(lambda: 0.0), ledger)


async def test_concurrency_is_counted_while_the_context_lasts(admission: Admission) -> None:
    with admission.reserve_concurrency(principal(), 2):
        with pytest.raises(ApiError) as error, admission.reserve_concurrency(principal(), 1):
            pass
        assert (error.value.status, error.value.body["error"]["code"]) == (429, "rate_limit_exceeded")
        with admission.reserve_concurrency(principal(concurrent=3), 1):
            pass
    with admission.reserve_concurrency(principal(), 2):
        pass
    assert not admission._running


async def test_requests_are_taken_and_headers_show_the_rest(admission: Admission) -> None:
    caller, headers = principal(requests_per_minute=2, tokens_per_minute=100), dict[str, str]()
    await admission.admit(caller, headers)
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] == "30s"
    assert headers["x-ratelimit-remaining-tokens"] == "100"
    await admission.admit(caller, headers)
    with pytest.raises(ApiError) as error:
        await admission.admit(caller, headers)
    assert error.value.status == 429
    assert headers["x-ratelimit-remaining-requests"] == "0"


async def test_predicted_tokens_are_corrected_at_the_end(admission: Admission) -> None:
    headers: dict[str, str] = {}
    caller = principal(tokens_per_minute=1000)
    reservation = await admission.admit(caller, headers)
    await reservation.take_tokens(100, [300, 300])
    assert headers["x-ratelimit-remaining-tokens"] == "300"
    with pytest.raises(ApiError, match="300 are left"):
        await (await admission.admit(caller, {})).take_tokens(100, [300])
    reservation.settle(150)
    await (await admission.admit(caller, headers)).take_tokens(100, [300])
    assert headers["x-ratelimit-remaining-tokens"] == "450"


@pytest.mark.parametrize(("limit", "left"), [(5000, 5000 - 10 - DEFAULT_OUTPUT_TOKENS), (500, 0)])
async def test_max_tokens_over_the_limit_is_predicted_at_a_default(admission: Admission, limit: int, left: int) -> None:
    headers: dict[str, str] = {}
    reservation = await admission.admit(principal(tokens_per_minute=limit), headers)
    await reservation.take_tokens(10, [1_000_000])
    assert headers["x-ratelimit-remaining-tokens"] == str(left)


async def test_a_prompt_over_the_limit_is_rejected_without_a_retry(admission: Admission) -> None:
    reservation = await admission.admit(principal(tokens_per_minute=100), {})
    with pytest.raises(ApiError, match="too large") as error:
        await reservation.take_tokens(100, [1])
    assert "retry-after" not in error.value.headers


async def test_without_limits_nothing_is_counted(ledger: Ledger) -> None:
    headers: dict[str, str] = {}
    admission = Admission(KeyLimits(), MemoryRateStore(), ledger)
    reservation = await admission.admit(principal(), headers)
    await reservation.take_tokens(10**9, [10**9])
    reservation.settle(10**9)
    assert headers == {}


async def test_a_spent_budget_is_not_to_be_retried(admission: Admission) -> None:
    with pytest.raises(ApiError) as error:
        await admission.admit(principal(monthly_spend=0), {})
    assert (error.value.status, error.value.body["error"]["code"]) == (429, "insufficient_quota")
    assert error.value.headers["x-should-retry"] == "false"
    await admission.admit(principal(monthly_spend=1), {})


def test_durations_are_written_as_openai_does() -> None:
    assert [_duration(seconds) for seconds in (0, 0.02, 1.25, 59, 60, 361.5)] == [
        "0ms",
        "20ms",
        "1.2s",
        "59s",
        "1m0s",
        "6m1.5s",
    ]
