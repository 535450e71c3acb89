"""Trailing slashes change nothing, and HEAD is GET without a body."""

from __future__ import annotations

import pytest

from tests.gateway.api.test_chat import user
from tests.gateway.conftest import Gateway


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/chat/completions//"])
async def test_a_trailing_slash_is_no_redirect(gateway: Gateway, path: str) -> None:
    async with gateway.http() as http:
        body = {"model": "toy", "messages": user("say hi")}
        response = await http.post(path, json=body, headers={"x-forwarded-proto": "https"})
        assert response.json()["choices"][0]["message"]["content"] == "hi"
        for other in ("/health/", "/v1/models/", "/v1/models/toy/", "/dashboard/"):
            assert (await http.get(other)).status_code == 200
        assert (await http.get("/nothing/")).status_code == 404


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/toy"])
async def test_head_has_the_headers_of_get_and_no_body(gateway: Gateway, path: str) -> None:
    async with gateway.http() as http:
        head, get = await http.head(path), await http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers["content-length"]
        assert (await http.head("/nothing")).status_code == 404
        assert (await http.head("/v1/chat/completions")).status_code == 405
