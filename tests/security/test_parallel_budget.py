"""Attack: a key with little left of its budget sends many requests at once, all of which see that little."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.gateway.conftest import Gateway
from tests.gateway.limits.test_limits import ask, key_with
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

BUDGET = 10_000_000  # nano-units; a request of 50 tokens may cost 3.5 million before anything was measured


async def test_requests_at_once_do_not_see_the_same_money(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    verifier.forwards.clear()  # so that none ends, and returns its reservation, while others are still being read
    key = await key_with(gateway, monthly_spend=BUDGET)
    async with gateway.http(key) as http:
        asked = [asyncio.create_task(ask(http, max_tokens=50)) for _ in range(30)]
        await until(lambda: sum(task.done() for task in asked) == 27)
        verifier.forwards.set()
        answers = await asyncio.gather(*asked)
        codes = Counter(a.json()["error"]["code"] if a.status_code == 429 else a.status_code for a in answers)
        assert codes[200] == len(verifier.opened) == 3, "two whole reservations, and what is left"
        assert codes["rate_limit_exceeded"] == 27, "not insufficient_quota: little of it is spent"
        await until(lambda: not gateway.state.admission._budgets._reservations.reserved)
        assert (await ask(http, max_tokens=50)).status_code == 200, "the reservations are settled"
