"""The admin API: off by default, permissions of each admin, responses and errors."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts import KeyLimits
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.ledger.test_ledger import ended
from tests.support.scripted_verifier import ScriptedVerifier

ROUTES = [
    ("GET", "/tenants"),
    ("POST", "/tenants"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("GET", "/keys/key_1"),
    ("POST", "/keys/key_1"),
    ("DELETE", "/keys/key_1"),
    ("GET", "/usage"),
    ("GET", "/agents"),
]


@pytest.fixture
async def open_gateway(database_url: str, tmp_path: Path, verifier: ScriptedVerifier) -> AsyncIterator[Gateway]:
    """With the admin API, on each kind of database."""
    async with running_gateway(tmp_path, verifier, database=database_url, admin_api=True) as gateway:
        yield gateway


async def call(
    gateway: Gateway, method: str, path: str, key: str | None = None, **options: Any
) -> tuple[int, dict[str, Any]]:
    http = gateway.http() if key is None else gateway.http(key)
    async with http:
        response = await http.request(method, f"/admin/v1{path}", **options)
    return response.status_code, response.json()


def code_of(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_it_is_not_served_by_default(gateway: Gateway, method: str, path: str) -> None:
    assert (await call(gateway, method, path, json={}))[0] == 404


async def test_it_is_for_admins_only(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, admin_api=True) as gateway:
        key = await gateway.accounts.create("ann", "default", ["inference", "edge"])
        for method, path in ROUTES:
            assert code_of(await call(gateway, method, path, key, json={})) == (403, "insufficient_scope")
            assert code_of(await call(gateway, method, path, "ed-none", json={})) == (401, "invalid_api_key")
        paths = (await httpx_json(gateway, "/openapi.json"))["paths"]
        assert {f"/admin/v1{path.replace('key_1', '{key_id}')}" for _, path in ROUTES} <= set(paths)


async def httpx_json(gateway: Gateway, path: str) -> dict[str, Any]:
    async with gateway.http() as http:
        response: httpx.Response = await http.get(path)
    return response.json()


async def test_a_key_is_created_changed_and_revoked(open_gateway: Gateway) -> None:
    gateway = open_gateway
    assert code_of(
        await call(gateway, "POST", "/keys", json={"owner": "ann", "tenant": "acme", "scopes": ["edge"]})
    ) == (
        400,
        "tenant_not_found",
    )
    assert (await call(gateway, "POST", "/tenants", json={"name": "acme", "title": "Acme Inc."}))[0] == 200
    assert code_of(await call(gateway, "POST", "/tenants", json={"name": "acme"})) == (409, "tenant_exists")
    body = {"owner": "ann", "tenant": "acme", "scopes": ["inference"], "monthly_spend": "2.5", "tokens_per_minute": 900}
    status, made = await call(gateway, "POST", "/keys", json=body)
    assert status == 200
    assert (made["monthly_spend"], made["tokens_per_minute"], made["concurrent"]) == ("2.500000000", 900, None)
    found = await gateway.accounts.find(made["key"])
    assert found
    assert found.limits == KeyLimits(tokens_per_minute=900, monthly_spend=2_500_000_000)
    path = f"/keys/{made['id']}"
    status, changed = await call(
        gateway, "POST", path, json={"tokens_per_minute": None, "concurrent": 3, "name": "x", "priority": 7}
    )
    assert [changed[name] for name in ("tokens_per_minute", "concurrent", "name", "priority")] == [None, 3, "x", 7]
    assert changed["monthly_spend"] == made["monthly_spend"]
    assert (await call(gateway, "GET", path))[1] == changed
    assert "key" not in changed
    assert (await call(gateway, "DELETE", path))[1]["deleted"] is True
    assert code_of(await call(gateway, "POST", path, json={"concurrent": 4})) == (409, "key_revoked")
    assert (await call(gateway, "GET", path))[1]["revoked_at"]
    assert await gateway.accounts.find(made["key"]) is None
    assert code_of(await call(gateway, "GET", "/keys/key_0")) == (404, "key_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"owner": "", "scopes": ["edge"]},
        {"owner": "a\u0000b", "scopes": ["edge"]},
        {"owner": "ann", "scopes": []},
        {"owner": "ann", "scopes": ["root"]},
        {"owner": "ann", "scopes": ["edge"], "monthly_spend": "-1"},
        {"owner": "ann", "scopes": ["edge"], "monthly_spend": 0.5},
        {"owner": "ann", "scopes": ["edge"], "concurrent": 0},
        {"owner": "ann", "scopes": ["edge"], "priority": 10},
        {"owner": "ann", "scopes": ["edge"], "concurrent": 10**30},
    ],
)
async def test_invalid_keys_are_rejected(open_gateway: Gateway, body: dict[str, Any]) -> None:
    status, answer = await call(open_gateway, "POST", "/keys", json=body)
    assert (status, answer["error"]["code"]) == (400, "invalid_value")
    assert await open_gateway.accounts.list() == []


@pytest.mark.parametrize("path", ["/tenants", "/keys", "/keys/key_1"])
async def test_bodies_are_counted_before_they_are_parsed(tmp_path: Path, verifier: ScriptedVerifier, path: str) -> None:
    content = b'{"owner": [' + b"{}," * 500_000 + b"{}]}"
    async with running_gateway(tmp_path, verifier, admin_api=True) as gateway:
        assert code_of(await call(gateway, "POST", path, content=content)) == (400, "too_many_values")


async def test_lists_come_in_pages(open_gateway: Gateway) -> None:
    for number in range(5):
        await open_gateway.accounts.create(f"o{number}", "acme", ["edge"])
    _, first = await call(open_gateway, "GET", "/keys?limit=3")
    _, second = await call(open_gateway, "GET", f"/keys?limit=3&after={first['last_id']}")
    assert [len(first["data"]), first["has_more"], len(second["data"]), second["has_more"]] == [3, True, 2, False]
    assert len({key["id"] for key in first["data"] + second["data"]}) == 5
    assert (await call(open_gateway, "GET", "/keys?limit=0"))[0] == 400
    _, tenants = await call(open_gateway, "GET", "/tenants?after=acme")
    assert [tenant["name"] for tenant in tenants["data"]] == ["default"]


async def test_a_tenants_admin_sees_its_tenant(open_gateway: Gateway) -> None:
    gateway = open_gateway
    boss = await gateway.accounts.create("boss", "acme", ["admin"])
    ann = await gateway.accounts.create("ann", "acme", ["inference", "edge"])
    bob = await gateway.accounts.create("bob", "other", ["inference", "edge"])
    ids = {record.owner: record.id for record in await gateway.accounts.list()}
    async with gateway.agent(ann), gateway.agent(bob):
        _, agents = await call(gateway, "GET", "/agents", boss)
        assert [agent["owner"] for agent in agents["data"]] == ["ann"]
        assert len((await call(gateway, "GET", "/agents"))[1]["data"]) == 2
    for key in (ann, bob):
        async with gateway.http(key) as http:
            body = {"model": "toy", "messages": user("say hello")}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    await ended(gateway.state.database, 2)
    _, keys = await call(gateway, "GET", "/keys", boss)
    assert {key["owner"] for key in keys["data"]} == {"ann", "boss"}
    _, usage = await call(gateway, "GET", "/usage?by=owner,day", boss)
    assert [line["owner"] for line in usage["data"]] == ["ann"]
    for method, path in (("GET", "/usage?tenant=other"), ("GET", "/keys?tenant=other"), ("GET", "/tenants")):
        assert code_of(await call(gateway, method, path, boss)) == (403, "operator_only")
    change = {"owner": "boss", "scopes": ["inference"], "concurrent": 1000}
    for path in ("/keys", f"/keys/{ids['boss']}", "/tenants"):
        assert code_of(await call(gateway, "POST", path, boss, json=change)) == (403, "operator_only")
    assert code_of(await call(gateway, "DELETE", f"/keys/{ids['bob']}", boss)) == (404, "key_not_found")
    assert (await call(gateway, "DELETE", f"/keys/{ids['ann']}", boss))[0] == 200


async def test_usage(open_gateway: Gateway) -> None:
    async with open_gateway.http() as http:
        for _ in range(3):
            body = {"model": "toy", "messages": user("say hello")}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        await ended(open_gateway.state.database, 3)
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        _, recorded = await call(open_gateway, "GET", f"/usage?by=day,model&from={yesterday}")
        (line,) = recorded["data"]
        assert (recorded["currency"], line["model"], line["requests"], line["output_tokens"]) == ("USD", "toy", 3, 18)
        assert line["cost"] == line["datacenter_only_cost"] != "0.000000000"
        text = (await http.get("/admin/v1/usage?by=key&format=csv")).text
        (row,) = csv.DictReader(io.StringIO(text))
        assert (row["key_id"], row["requests"]) == ("static", "3")
        assert (await call(open_gateway, "GET", "/usage?to=2020-01-01"))[1]["data"] == []
        for query in ("by=colour", "from=yesterday", "to=9999-12-31", "page=-1", "limit=1000", "format=xml"):
            assert (await http.get(f"/admin/v1/usage?{query}")).status_code == 400
