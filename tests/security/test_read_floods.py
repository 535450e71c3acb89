"""Attack: a key polls what only reads (models, dashboard, usage) or sends bad requests, as fast as it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.conftest import KEY, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier


@pytest.mark.parametrize("path", ["/v1/models", "/dashboard/data", "/dashboard/money", "/admin/v1/usage"])
async def test_reads_are_limited_by_key(tmp_path: Path, verifier: ScriptedVerifier, path: str) -> None:
    async with running_gateway(tmp_path, verifier, admin_api=True, reads_per_minute=3) as gateway:
        other = await gateway.accounts.create("root", "default", ["admin"])
        async with gateway.http() as http, gateway.http(other) as second:
            answers = [await http.get(path) for _ in range(5)]
            assert [answer.status_code for answer in answers[:3]] == [200] * 3
            refused = answers[-1]
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert (await second.get(path)).status_code == 200
            assert (await http.get("/health")).status_code == 200


async def test_refused_requests_pay_for_their_preparation(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    """Work charged to a key, by a request that ended in 400 too, is paid back at so many seconds a minute."""
    async with running_gateway(tmp_path, verifier, work_seconds_per_minute=10) as gateway:
        principal = await gateway.accounts.find(KEY)
        assert principal
        reservation = await gateway.state.admission.admit(principal, {})
        for _ in range(30):
            reservation.charge_work(0.5)
        reservation.close()
        async with gateway.http() as http:
            refused = await http.post("/v1/chat/completions", json={"model": "toy"})
            assert refused.status_code == 429
            assert 25 <= int(refused.headers["retry-after"]) <= 30
        other = await gateway.accounts.create("bob", "default", ["inference"])
        async with gateway.http(other) as http:
            assert (await http.post("/v1/chat/completions", json={"model": "toy"})).status_code == 400


async def test_a_report_covers_a_bounded_number_of_days(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, admin_api=True) as gateway, gateway.http() as http:
        refused = await http.get("/admin/v1/usage?by=day&from=1990-01-01&to=2020-01-01")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "from")
        assert (await http.get("/admin/v1/usage?by=day&from=2020-01-01&to=2020-12-31")).status_code == 200
