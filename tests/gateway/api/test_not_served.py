"""OpenAI's endpoints that are not served, and ways of calling that are not: what a client is told."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.gateway.conftest import Gateway


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/files"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/vector_stores/vs_1/search"),
        ("GET", "/v1/realtime"),
    ],
)
async def test_an_endpoint_that_is_not_served_says_what_to_do(gateway: Gateway, method: str, path: str) -> None:
    for key in ("", "any"):
        async with gateway.http(key) as http:
            response = await http.request(method, path, json={"model": "m", "input": "x"})
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "endpoint_not_served", None)
        assert path in error["message"]
        assert "docs/clients.md#embeddings" in error["message"]


async def test_responses_are_not_served_over_a_websocket_or_by_get(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(gateway.url.replace("http", "ws") + "/v1/responses", proxy=None):
            pass
    assert refused.value.response.status_code == 426
    assert refused.value.response.body
    async with gateway.http() as http:
        response = await http.get("/v1/responses")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
