"""Admission by a key's limits, without a gateway: concurrency, budget, request and token rates, headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.accounts import KeyLimits, Principal
from gateway.http.errors import ApiError
from gateway.ledger import Ledger, Prices
from gateway.limits.admission import DEFAULT_OUTPUT_TOKENS, Admission, _duration
from gateway.limits.rate_limits import MemoryRateStore, TakeResult, Use
from gateway.storage.database import Database
from tests.support.waiting import until


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


async def test_work_is_charged_with_the_next_call_and_at_the_end(ledger: Ledger) -> None:
    caller = principal(tokens_per_minute=10_000)
    admission = Admission(KeyLimits(), MemoryRateStore(lambda: 0.0), ledger, work_seconds_per_minute=2)

    async def tokens_left() -> int:
        headers: dict[str, str] = {}
        (await admission.admit(caller, headers)).close()
        return int(headers["x-ratelimit-remaining-tokens"])

    reservation = await admission.admit(caller, {})
    reservation.charge_work(0.5)
    assert await tokens_left() == 10_000
    await reservation.take_tokens(100, [400])
    assert await tokens_left() == 10_000 - 500 - 500
    reservation.charge_work(0.2)
    reservation.settle(150)
    reservation.close()
    assert await tokens_left() == 10_000 - 150 - 700
    reservation.charge_work(0.3)  # of a job that was given up
    assert await tokens_left() == 10_000 - 150 - 1000
    late = await admission.admit(caller, {})
    late.charge_work(1.1)
    with pytest.raises(ApiError, match="too long to render") as error:
        await admission.admit(caller, {})
    assert error.value.headers["retry-after"] == "3"


class SlowRates(MemoryRateStore):
    """Answers when told to, as a store behind a network."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.answers = asyncio.Event()
        self.asked = 0

    async def take(self, takes: Sequence[Use], charges: Sequence[Use] = ()) -> list[TakeResult]:
        self.asked += 1
        results = await super().take(takes, charges)
        await self.answers.wait()
        return results


async def test_tokens_that_are_granted_after_the_client_has_gone_are_returned(ledger: Ledger) -> None:
    rates = SlowRates()
    rates.answers.set()
    reservation = await Admission(KeyLimits(), rates, ledger).admit(principal(tokens_per_minute=1000), {})
    rates.answers.clear()
    taking = asyncio.create_task(reservation.take_tokens(100, [500]))
    await until(lambda: rates.asked == 2)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    reservation.close()
    rates.answers.set()
    await until(lambda: rates._level("tokens/{key_1}", 1000) == 1000)


async def test_a_request_that_never_ran_returns_what_it_took(admission: Admission) -> None:
    headers: dict[str, str] = {}
    caller = principal(tokens_per_minute=1000)
    reservation = await admission.admit(caller, headers)
    await reservation.take_tokens(100, [500])
    reservation.close()
    reservation.close()
    await admission.admit(caller, headers)
    assert headers["x-ratelimit-remaining-tokens"] == "1000"


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
