"""A request that generates: authentication before the body, slots that are given back, and errors before and after."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgedraft.workers.pool import JobRefused, WorkersUnavailable
from gateway.accounts import KeyLimits
from gateway.api.generation_context import find_model, to_api_error
from gateway.http.errors import ApiError
from gateway.model.served_model import ModelCatalog, ServedModel
from gateway.sessions.errors import Overloaded, RequestRejected, SessionError, Unavailable
from gateway.storage.database import DatabaseDown
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"model": "toy", "messages": user("say hello")}
LONG: dict[str, Any] = {"model": "toy", "messages": user("babble"), "max_tokens": 1500}


@asynccontextmanager
async def request_without_body(gateway: Gateway, key: str) -> AsyncIterator[asyncio.StreamReader]:
    """A connection that has sent a request's head and nothing of its body."""
    host, port = httpx.URL(gateway.url).host, httpx.URL(gateway.url).port
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-length: 1000\r\n\r\n"
    writer.write(head.encode())
    try:
        yield reader
    finally:
        writer.close()


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(60):
        return int((await reader.readline()).split()[1])


async def limited_key(gateway: Gateway, concurrent: int) -> str:
    return await gateway.accounts.create("ann", "acme", ["inference"], limits=KeyLimits(concurrent=concurrent))


def reserved(gateway: Gateway) -> int:
    return sum(gateway.state.admission._running.values())


def logged_statuses(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The statuses of the requests in the log."""
    return [vars(record)["fields"]["status"] for record in caplog.records if record.getMessage() == "request"]


async def test_a_key_is_checked_before_the_body_is_read(gateway: Gateway) -> None:
    async with request_without_body(gateway, "ed-wrong") as reader:
        assert await status_of(reader) == 401
    admin = await gateway.accounts.create("ann", "acme", ["agent"])
    async with request_without_body(gateway, admin) as reader:
        assert await status_of(reader) == 403


async def test_a_request_whose_body_is_awaited_takes_a_place_of_its_keys_limit(gateway: Gateway) -> None:
    key = await limited_key(gateway, 1)
    async with request_without_body(gateway, key):
        await until(lambda: reserved(gateway) == 1)
        async with request_without_body(gateway, key) as second:
            assert await status_of(second) == 429
    await until(lambda: not reserved(gateway))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"stream": True}, 200),
        ({"n": 2}, 200),
        ({"n": 2, "stream": True}, 200),
        ({"n": 4}, 429),
        ({"model": "other"}, 404),
        ({"messages": []}, 400),
        ({"temperature": 9}, 400),
    ],
)
async def test_places_are_given_back_after_every_response(
    gateway: Gateway, change: dict[str, Any], status: int
) -> None:
    key = await limited_key(gateway, 3)
    async with gateway.http(key) as http:
        assert (await http.post(PATH, json=CHAT | change)).status_code == status
    await until(lambda: not reserved(gateway))


@pytest.mark.parametrize("stream", [False, True])
async def test_places_are_held_while_the_generation_runs(
    gateway: Gateway, verifier: ScriptedVerifier, stream: bool
) -> None:
    verifier.step = 0.01
    async with gateway.http() as http:
        task = asyncio.create_task(http.post(PATH, json=LONG | {"n": 3, "stream": stream}))
        await until(lambda: len(verifier.opened) == 3 and len(verifier.commits) > 5)
        assert reserved(gateway) == 3
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await until(lambda: len(verifier.cancelled) == 3 and not reserved(gateway))


@pytest.mark.parametrize("stream", [False, True])
async def test_places_are_given_back_when_every_session_is_refused(
    gateway: Gateway, verifier: ScriptedVerifier, stream: bool
) -> None:
    verifier.refuse = "refused"
    async with gateway.http() as http:
        response = await http.post(PATH, json=CHAT | {"stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "refused")
    await until(lambda: not reserved(gateway))


async def test_a_client_that_leaves_is_a_499_and_its_session_is_cancelled(
    gateway: Gateway, verifier: ScriptedVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    verifier.step = 0.01
    async with gateway.http() as http:
        task = asyncio.create_task(http.post(PATH, json=LONG))
        await until(lambda: verifier.commits)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await until(lambda: verifier.cancelled == [1] and logged_statuses(caplog) == [499])


async def test_the_mode_is_in_a_header_too(gateway: Gateway) -> None:
    async with gateway.http() as http:
        response = await http.post(PATH, json=CHAT)
    assert response.headers["x-edgedraft-mode"] == response.json()["edgedraft"]["mode"] == "datacenter"


async def test_a_stream_that_fails_after_its_first_frame_ends_in_an_error_frame(
    tmp_path: Path, verifier: ScriptedVerifier
) -> None:
    verifier.step, verifier.die_at = 0.01, 5
    async with running_gateway(tmp_path, verifier, open_timeout=0.2, silence_timeout=0.5) as gateway:
        async with gateway.http() as http:
            response = await http.post(PATH, json=LONG | {"stream": True})
        assert response.status_code == 200
        *_, error, done = response.text.split("\n\n")[:-1]
        assert done == "data: [DONE]"
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "verifier_unavailable"
        await until(lambda: not reserved(gateway))


async def test_a_gateway_without_a_verifier_is_a_503(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, open_timeout=0.01) as gateway, gateway.http(KEY) as http:
        response = await http.post(PATH, json=CHAT)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_verifier")
        assert response.headers["retry-after"] == "1"
        assert not reserved(gateway)


class _Failed(SessionError):
    error_type = "Failed"


OWN = ApiError(418, "own", code="own")
TABLE: list[tuple[Exception, tuple[int, str, str | None], tuple[int, str, str | None]]] = [
    # error, then status, code and retry-after before the first frame, and after it
    (OWN, (418, "own", None), (418, "own", None)),
    (DatabaseDown("x"), (503, "database_unavailable", "1"), (503, "database_unavailable", "1")),
    (JobRefused("x"), (429, "overloaded", "1"), (429, "overloaded", "1")),
    (WorkersUnavailable("x"), (503, "unavailable", "1"), (503, "unavailable", "1")),
    (RequestRejected("x"), (400, "refused", None), (503, "verifier_unavailable", None)),
    (Overloaded("x", 7), (429, "overloaded", "7"), (503, "verifier_unavailable", None)),
    (Unavailable("x", 3), (503, "unavailable", "3"), (503, "verifier_unavailable", None)),
]


@pytest.mark.parametrize(("error", "before", "after"), TABLE, ids=lambda value: type(value).__name__)
def test_errors_of_a_generation(
    error: Exception, before: tuple[int, str, str | None], after: tuple[int, str, str | None]
) -> None:
    for started, expected in ((False, before), (True, after)):
        made = to_api_error(error, started)
        assert (made.status, made.code, made.headers.get("retry-after")) == expected
        assert str(error) in made.message or isinstance(error, DatabaseDown)


@pytest.mark.parametrize("error", [ValueError("secret"), _Failed("secret")])
def test_an_unexpected_error_is_raised_before_the_first_frame(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        to_api_error(error, started=False)
    assert raised.value is error


def test_an_unexpected_error_after_the_first_frame_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    made = to_api_error(ValueError("secret"), started=True)
    assert (made.status, made.code) == (500, "internal_error")
    assert "secret" not in made.message
    assert "a stream failed" in caplog.text


def test_a_model_is_found_by_its_name() -> None:
    catalog = ModelCatalog()
    with pytest.raises(ApiError) as raised:
        find_model(catalog, "toy")
    assert (raised.value.status, raised.value.code) == (503, "no_verifier")
    model = ServedModel.from_card(toy_model.card())
    catalog.add(model)
    assert find_model(catalog, "toy") is model
    with pytest.raises(ApiError) as raised:
        find_model(catalog, "x" * 1000)
    assert (raised.value.status, raised.value.code) == (404, "model_not_found")
    assert len(raised.value.message) < 300
