"""The document at /openapi.json, and what browsers need to call the gateway from a page."""

from __future__ import annotations

import json
import re

import pytest

from tests.gateway.conftest import Gateway, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier

ORIGIN = "https://app.example.com"


async def test_the_document_tells_of_every_route(gateway: Gateway) -> None:
    async with gateway.http(key="") as http:
        document = (await http.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.")
        assert document["security"] == [{"bearer": []}]
        assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/v1/models"} <= set(
            document["paths"]
        )
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                response = await http.request(method, path.replace("{name}", "toy"))
                if operation.get("security") == []:
                    assert response.status_code in (200, 503)
                else:
                    assert response.status_code == 401
                    assert {"400", "401", "429", "503"} <= set(operation["responses"])
                assert "422" not in operation["responses"]
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert references == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


async def test_the_document_has_the_bounds_that_requests_are_held_against(gateway: Gateway) -> None:
    async with gateway.http() as http:
        document = (await http.get("/openapi.json")).json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model", "messages"]
    temperature = body["properties"]["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)


@pytest.mark.parametrize("allowed", [[ORIGIN], ["*"]])
async def test_pages_of_allowed_origins_may_call(tmp_path, verifier: ScriptedVerifier, allowed: list[str]) -> None:
    async with running_gateway(tmp_path, verifier, allowed_origins=allowed) as gateway, gateway.http(key="") as http:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-any"}
        response = await http.options("/v1/chat/completions", headers={"origin": ORIGIN} | asked)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] in (ORIGIN, "*")
        assert "authorization" in response.headers["access-control-allow-headers"].lower()
        response = await http.post("/v1/chat/completions", json={}, headers={"origin": ORIGIN})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] in (ORIGIN, "*"), "errors can be read too"
        assert response.headers["access-control-expose-headers"] == "*"
        if allowed == [ORIGIN]:
            response = await http.get("/v1/models", headers={"origin": "https://other.example.com"})
            assert "access-control-allow-origin" not in response.headers


async def test_pages_may_not_call_by_default(gateway: Gateway) -> None:
    async with gateway.http() as http:
        response = await http.get("/v1/models", headers={"origin": ORIGIN})
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control")]
