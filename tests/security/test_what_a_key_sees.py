"""Attack: a key asks every route for what belongs to another owner, another tenant, or the operator.

ALLOWED is the written table: who may call which route. A route without an entry fails the test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.api import not_served
from gateway.app import build_app
from gateway.settings import GatewaySettings
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.ledger.test_ledger import ended
from tests.support.scripted_verifier import ScriptedVerifier

EVERYBODY, ANY_KEY, INFERENCE, EDGE = "everybody", "any key", "inference", "edge"
ADMIN, OPERATOR = "admin", "operator"

PAGES = {"/dashboard", "/dashboard/{name:path}", "/openapi.json", "/attach", "/attach/page/{name:path}"}
ALLOWED: dict[tuple[str, str], str] = {
    **{("GET", path): EVERYBODY for path in PAGES},
    **{("GET", path): EVERYBODY for path in ("/health", "/healthz", "/readyz", "/metrics")},
    **{
        (method, f"/v1/{path}{rest}"): EVERYBODY
        for path in not_served.PATHS
        for rest in ("", "/{rest:path}")
        for method in not_served.METHODS
    },
    ("GET", "/attach/runtime/{name}"): EVERYBODY,  # onnxruntime-web, which anybody may have
    ("GET", "/attach/drafts"): EDGE,
    ("GET", "/attach/drafts/{checksum}"): EDGE,
    ("POST", "/v1/edge/tickets"): EDGE,
    ("GET", "/v1/models"): ANY_KEY,
    ("GET", "/v1/models/{name:path}"): ANY_KEY,
    ("GET", "/dashboard/data"): ANY_KEY,
    ("GET", "/dashboard/money"): ANY_KEY,
    ("POST", "/v1/chat/completions"): INFERENCE,
    ("POST", "/v1/completions"): INFERENCE,
    ("POST", "/v1/responses"): INFERENCE,
    ("POST", "/v1/responses/input_tokens"): INFERENCE,
    ("GET", "/v1/responses/{response_id}"): INFERENCE,
    ("DELETE", "/v1/responses/{response_id}"): INFERENCE,
    ("POST", "/v1/responses/{response_id}/cancel"): INFERENCE,
    ("GET", "/v1/responses/{response_id}/input_items"): INFERENCE,
    ("POST", "/tokenize"): INFERENCE,
    ("POST", "/detokenize"): INFERENCE,
    ("WEBSOCKET", "/v1/responses"): EVERYBODY,
    ("WEBSOCKET", "/v1/agent"): EDGE,
    ("GET", "/admin/v1/tenants"): OPERATOR,
    ("POST", "/admin/v1/tenants"): OPERATOR,
    ("GET", "/admin/v1/keys"): ADMIN,
    ("POST", "/admin/v1/keys"): OPERATOR,
    ("GET", "/admin/v1/keys/{key_id}"): ADMIN,
    ("POST", "/admin/v1/keys/{key_id}"): OPERATOR,
    ("DELETE", "/admin/v1/keys/{key_id}"): ADMIN,
    ("GET", "/admin/v1/usage"): ADMIN,
    ("GET", "/admin/v1/agents"): ADMIN,
}

# Keys: name -> owner, tenant, scopes.
KEYS = {
    "operator": ("root", "default", ["admin"]),
    "default's user": ("dan", "default", ["inference", "edge"]),
    "acme's admin": ("eve", "acme", ["admin"]),
    "acme's user": ("ann", "acme", ["inference"]),
    "acme's agent": ("ann", "acme", ["edge"]),
    "other's user": ("ann", "other", ["inference"]),
    "other's admin": ("oto", "other", ["admin", "inference"]),
}


def may_call(who: str, role: str) -> bool:
    _, tenant, scopes = KEYS[who]
    match role:
        case "everybody" | "any key":
            return True
        case "operator":
            return "admin" in scopes and tenant == "default"
        case _:
            return role in scopes


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        if inner := getattr(route, "original_router", None):
            yield from routes_of(inner)
        elif methods := getattr(route, "methods", None):
            yield from ((method, route.path) for method in methods if method != "HEAD")
        else:
            yield "WEBSOCKET", route.path


def test_every_route_is_in_the_table(tmp_path: Path) -> None:
    settings = {"database": f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", "admin_api": True}
    app: FastAPI = build_app(GatewaySettings.model_validate(settings))
    assert set(routes_of(app)) == set(ALLOWED)


@pytest.fixture
async def used(tmp_path: Path, verifier: ScriptedVerifier) -> Any:
    """A gateway, a key of each kind, and one generation and one stored response of each key that may generate."""
    async with running_gateway(tmp_path, verifier, admin_api=True) as gateway:
        keys = {
            who: await gateway.accounts.create(owner, tenant, scopes) for who, (owner, tenant, scopes) in KEYS.items()
        }
        ids: dict[str, str] = {}
        for who in KEYS:
            if "inference" in KEYS[who][2]:
                async with gateway.http(keys[who]) as http:
                    answer = await http.post("/v1/responses", json={"model": "toy", "input": f"say secret of {who}"})
                    ids[who] = answer.json()["id"]
        await ended(gateway.state.database, len(ids))
        yield gateway, keys, ids


async def call(http: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    """Bodies are empty: what may be called answers with something else than 401 and 403."""
    filled = path.replace("{name:path}", "toy").replace("{name}", "style.css")
    filled = filled.replace("{response_id}", "resp_none").replace("{key_id}", "key_0")
    return await http.request(method, filled, json={} if method == "POST" else None)


async def test_scopes_are_those_of_the_table(used: tuple[Gateway, dict[str, str], dict[str, str]]) -> None:
    gateway, keys, _ = used
    for (method, path), role in ALLOWED.items():
        if method == "WEBSOCKET":
            continue
        async with gateway.http("") as http:
            assert ((await call(http, method, path)).status_code == 401) == (role != EVERYBODY), (method, path)
        for who, key in keys.items():
            async with gateway.http(key) as http:
                status = (await call(http, method, path)).status_code
            assert (status not in (401, 403)) == may_call(who, role), (who, method, path, status)
            assert status < 500


async def test_nobody_reads_anothers_response(used: tuple[Gateway, dict[str, str], dict[str, str]]) -> None:
    """An owner's name in another tenant is another owner, and an admin reads no texts."""
    gateway, keys, ids = used
    for who, key in keys.items():
        for whose, response_id in ids.items():
            async with gateway.http(key) as http:
                for path in ("", "/input_items"):
                    answer = await http.get(f"/v1/responses/{response_id}{path}")
                    assert (answer.status_code == 200) == (who == whose), (who, whose)
                    assert (f"secret of {whose}" in answer.text) == (who == whose)
                if who != whose:
                    assert (await http.delete(f"/v1/responses/{response_id}")).status_code in (403, 404)


def visible(who: str) -> set[str]:
    """Whose requests a key may count."""
    owner, tenant, scopes = KEYS[who]
    generating = {name for name, (_, _, theirs) in KEYS.items() if "inference" in theirs}
    if "admin" in scopes:
        return {name for name in generating if tenant in ("default", KEYS[name][1])}
    return {name for name in generating if KEYS[name][:2] == (owner, tenant)}


async def test_numbers_are_of_what_a_key_may_see(used: tuple[Gateway, dict[str, str], dict[str, str]]) -> None:
    gateway, keys, _ = used
    for who, key in keys.items():
        async with gateway.http(key) as http:
            money = (await http.get("/dashboard/money")).json()
            live = (await http.get("/dashboard/data")).json()
            assert money["requests"] == len(visible(who)), who
            assert sum(live["live"]["requests"].values()) == len(visible(who)), who
            assert ("verifiers" in live) == (who == "operator")
            if "admin" not in KEYS[who][2]:
                continue
            tenants = {KEYS[name][1] for name in (KEYS if who == "operator" else visible(who))} | {KEYS[who][1]}
            usage = (await http.get("/admin/v1/usage?by=tenant,owner,key")).json()["data"]
            assert sum(line["requests"] for line in usage) == len(visible(who))
            listed = (await http.get("/admin/v1/keys?limit=100")).json()["data"]
            assert {key["tenant"] for key in listed} == tenants
            assert not any(secret in json.dumps([usage, listed]) for secret in keys.values())
            for other in ("acme", "other", "default"):
                answer = await http.get(f"/admin/v1/usage?tenant={other}")
                assert (answer.status_code == 200) == (other in tenants), (who, other)
