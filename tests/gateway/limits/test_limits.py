"""Limits of keys at a serving gateway: never exceeded, and shown in the headers of every response."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from gateway.accounts import KeyLimits
from gateway.ledger.money import NANO
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.ledger.test_ledger import ended
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until


async def ask(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/v1/chat/completions", json={"model": "toy", "messages": user("say hello")} | body)


async def key_with(gateway: Gateway, **limits: int) -> str:
    return await gateway.accounts.create("ann", "acme", ["inference"], limits=KeyLimits(**limits))


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["code"]


async def test_never_more_requests_than_allowed(gateway: Gateway) -> None:
    key = await key_with(gateway, requests_per_minute=7)
    async with gateway.http(key) as http:
        responses = await asyncio.gather(*(ask(http) for _ in range(30)))
    granted = [response for response in responses if response.status_code == 200]
    assert len(granted) in (7, 8)  # one more if they took longer than a seventh of a minute
    refused = next(response for response in responses if response.status_code != 200)
    assert error_of(refused) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 9
    assert refused.headers["x-ratelimit-limit-requests"] == "7"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert {int(response.headers["x-ratelimit-remaining-requests"]) for response in granted} >= set(range(7))
    assert all(response.headers["x-ratelimit-reset-requests"].endswith("s") for response in responses)


async def test_never_more_tokens_than_allowed(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    """Each may take its prompt and 100 tokens; together they never may take more than a minute's."""
    verifier.step = 0.01
    key = await key_with(gateway, tokens_per_minute=1000)
    async with gateway.http(key) as http:
        responses = await asyncio.gather(*(ask(http, messages=user("babble"), max_tokens=100) for _ in range(20)))
    used = sum(r.json()["usage"]["total_tokens"] for r in responses if r.status_code == 200)
    assert 600 <= used <= 1100
    refused = next(response for response in responses if response.status_code != 200)
    assert error_of(refused) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"


async def test_a_stream_that_is_given_up_takes_what_it_used(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    """Not what it might have taken, and not nothing."""
    verifier.step = 0.01
    rates = gateway.state.admission._rates
    rates._clock = lambda: 0.0  # nothing is refilled
    key = await key_with(gateway, tokens_per_minute=6000)
    body = {"model": "toy", "messages": user("babble"), "max_tokens": 4000, "stream": True}
    async with gateway.http(key) as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if "content" in line:
                break
    (row,) = await ended(gateway.state.database)
    assert row.outcome == "cancelled"
    used = row.prompt_tokens + row.output_tokens
    assert row.prompt_tokens < used < 1000
    level = rates._level(f"tokens/{{{row.key_id}}}", 6000)
    assert 6000 - used - 1000 < level <= 6000 - used, "a second of preparation, which it does not take, is 1000 tokens"


async def test_predicted_tokens_that_were_not_used_are_returned(gateway: Gateway) -> None:
    key = await key_with(gateway, tokens_per_minute=1000)
    async with gateway.http(key) as http:
        for _ in range(3):  # each is predicted at about 900 and takes less than 60
            assert (await ask(http, max_tokens=850)).status_code == 200
        streamed = await ask(http, stream=True)  # without a limit of its own
        assert streamed.status_code in {200, 429}
        assert int(streamed.headers["x-ratelimit-remaining-tokens"]) <= 1000
        too_large = await ask(http, messages=user("x" * 1000))
    assert error_of(too_large) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert "too large" in too_large.json()["error"]["message"]


async def test_concurrent_generations(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    verifier.forwards.clear()
    key = await key_with(gateway, concurrent=3)
    async with gateway.http(key) as http:
        asked = [asyncio.create_task(ask(http, messages=user("babble"), max_tokens=20)) for _ in range(10)]
        await until(lambda: sum(task.done() for task in asked) == 7)
        verifier.forwards.set()
        responses = await asyncio.gather(*asked)
        assert [r.status_code for r in responses].count(200) == 3
        assert (await ask(http, n=3)).status_code == 200
        assert error_of(await ask(http, n=4)) == (429, "rate_limit_error", "rate_limit_exceeded")


async def test_a_spent_budget(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    key = await key_with(gateway, monthly_spend=1)  # a nano: the first request may spend it
    async with gateway.http(key) as http:
        assert (await ask(http)).status_code == 200
        refused = await ask(http)
    assert error_of(refused) == (429, "insufficient_quota", "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert len(verifier.opened) == 1


async def test_the_gateways_limits_apply_to_keys_without_their_own(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, requests_per_minute=2, monthly_spend="0.5") as gateway:
        own = await key_with(gateway, requests_per_minute=50, monthly_spend=100 * NANO)
        async with gateway.http() as http, gateway.http(own) as other:
            assert (await ask(http)).headers["x-ratelimit-limit-requests"] == "2"
            assert (await ask(other)).headers["x-ratelimit-limit-requests"] == "50"


async def test_errors_have_rate_limit_headers_too(gateway: Gateway) -> None:
    key = await key_with(gateway, requests_per_minute=20, tokens_per_minute=1000)
    async with gateway.http(key) as http:
        response = await ask(http, model="other")
        assert response.status_code == 404
        assert response.headers["x-ratelimit-remaining-requests"] == "19"
        assert response.headers["x-ratelimit-remaining-tokens"] == "1000"
    async with gateway.http() as http:
        assert "x-ratelimit-limit-requests" not in (await ask(http)).headers


async def test_a_keys_priority_goes_to_the_verifier(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    for limits, priority in (({"priority": 4}, 4), ({}, 0)):
        async with gateway.http(await key_with(gateway, **limits)) as http:
            assert (await ask(http)).status_code == 200
        assert verifier.opened[-1].priority == priority


async def test_a_request_rejected_by_full_verifiers_costs_nothing(tmp_path: Path) -> None:
    async with (
        ScriptedVerifier(refuse="overloaded", retry_after=3) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        key = await key_with(gateway, tokens_per_minute=1000)
        async with gateway.http(key) as http:
            refused = await ask(http, max_tokens=100)
            assert error_of(refused) == (429, "rate_limit_error", "overloaded")
            assert refused.headers["retry-after"] == "3"
            later = await ask(http, model="other")
        assert later.headers["x-ratelimit-remaining-tokens"] == "1000", "its tokens are given back"
        (entry,) = await ended(gateway.state.database)
        assert (entry.output_tokens, entry.verifier_ns, entry.verifier_cost) == (0, 0, 0)
