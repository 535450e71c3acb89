"""The dashboard's data by key, and the headers of its files."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.conftest import Gateway

BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "say one two three secret words"}]}


async def figures(gateway: Gateway, key: str) -> dict[str, Any]:
    async with gateway.http(key) as http:
        response = await http.get("/dashboard/data")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    return response.json()


async def ask(gateway: Gateway, key: str, **options: Any) -> dict[str, Any]:
    async with gateway.http(key) as http:
        return (await http.post("/v1/chat/completions", json=BODY | options)).json()


async def test_a_key_sees_its_owner_and_an_admin_all_owners(gateway: Gateway) -> None:
    ann = await gateway.accounts.create("ann", "default", ["inference", "edge"])
    bob = await gateway.accounts.create("bob", "default", ["inference"])
    admin = await gateway.accounts.create("root", "default", ["admin"])
    async with gateway.agent(ann, device="made up"):
        made = await ask(gateway, ann)
        await ask(gateway, bob)
        hers, his, all_of_it = [await figures(gateway, key) for key in (ann, bob, admin)]
    assert hers["live"]["requests"] == {"edge": 1, "mixed": 0, "datacenter": 0}
    assert his["live"]["requests"] == {"edge": 0, "mixed": 0, "datacenter": 1}
    assert all_of_it["live"]["requests"] == {"edge": 1, "mixed": 0, "datacenter": 1}
    steps = hers["live"]["steps"]
    assert sum(map(sum, (steps["edge"], steps["own"], steps["plain"]))) == made["usage"]["completion_tokens"]
    assert sum(steps["edge"]) == made["edgedraft"]["accepted"] > 0
    assert sum(steps["forwards"]) == made["edgedraft"]["verifier_steps"]
    (agent,) = hers["agents"]
    assert (agent["name"], agent["drafter"], agent["max_sessions"], agent["sessions"]) == ("test", "script", 8, 0)
    assert agent["device"] == "other", "it said none that this gateway knows"
    assert (agent["accepted"], agent["served"]) == (made["edgedraft"]["accepted"], 1)
    assert "owner" not in agent
    assert "verifiers" not in hers
    assert his["agents"] == []
    assert all_of_it["agents"][0]["owner"] == "ann"
    assert all_of_it["verifiers"][0]["model"] == "toy"
    assert (hers["sees"], all_of_it["sees"]) == ("ann", "everybody")
    assert "secret" not in str([hers, his, all_of_it])


async def test_money_is_the_ledgers_and_each_owners_own(gateway: Gateway) -> None:
    ann = await gateway.accounts.create("ann", "default", ["inference", "edge"])
    bob = await gateway.accounts.create("bob", "default", ["inference"])
    admin = await gateway.accounts.create("root", "default", ["admin"])
    async with gateway.agent(ann):
        made = await ask(gateway, ann)
        await ask(gateway, bob)

    async def money(key: str) -> dict[str, Any]:
        async with gateway.http(key) as http:
            return (await http.get("/dashboard/money")).json()

    async with asyncio.timeout(60):
        while (await money(admin)).get("unfinished") != 0 or (await money(admin))["requests"] != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    hers = await money(ann)
    assert (hers["currency"], hers["days"], hers["output_tokens"]) == ("USD", 30, made["usage"]["completion_tokens"])
    assert float(hers["credit"]) > 0
    assert float(hers["saved"]) == pytest.approx(float(hers["datacenter_only_cost"]) - float(hers["cost"]))
    assert float((await money(bob))["credit"]) == 0


async def test_an_agents_answers_are_timed(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "default", ["inference", "edge"])
    async with gateway.agent(key, wrong_every=3):
        await ask(gateway, key)
        (agent,) = (await figures(gateway, key))["agents"]
    assert 0 < agent["answer"] < 5
    assert agent["checked"] > agent["accepted"]


@pytest.mark.parametrize("key", ["", "ed-wrong"])
async def test_figures_need_a_key(gateway: Gateway, key: str) -> None:
    async with gateway.http(key) as http:
        response = await http.get("/dashboard/data")
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_the_page_is_static_strict_and_cached_by_its_content(gateway: Gateway) -> None:
    async with gateway.http("") as http:
        for path, kind in (
            ("", "text/html"),
            ("/style.css", "text/css"),
            ("/page.js", "text/javascript"),
            ("/charts.js", "text/javascript"),
            ("/vendor/uplot.js", "text/javascript"),
            ("/vendor/uplot.css", "text/css"),
            ("/icon.svg", "image/svg+xml"),
        ):
            response = await http.get(f"/dashboard{path}")
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(kind)
            policy = response.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            again = await http.get(f"/dashboard{path}", headers={"if-none-match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            outside = [word for word in ("http://", "https://", "//cdn") if word in response.text]
            assert outside == ([] if kind not in ("image/svg+xml", "text/javascript") else outside)
        for path in ("vendor", "..%2Fapp.py", "__init__.py"):
            assert (await http.get(f"/dashboard/{path}")).status_code == 404


async def test_figures_are_bounded_however_many_owners_ask(gateway: Gateway) -> None:
    live = gateway.state.metrics.live
    for number in range(3000):
        live.record_end(("default", f"owner-{number}"), "edge", 0.1, 0.01)
    assert len(live._owners) == 1024
    assert live.snapshot(None)["requests"]["edge"] == 512
    assert live.snapshot(("default", "owner-2999"))["requests"]["edge"] == 1
    assert live.snapshot(("default", "owner-0"))["requests"]["edge"] == 0
