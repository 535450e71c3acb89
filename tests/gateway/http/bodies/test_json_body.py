"""Bodies of JSON: counted before they are parsed, and large ones parsed in a process of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from edgedraft.workers.pool import JobOwner
from gateway.http.bodies.json_body import JsonBodies
from gateway.http.bodies.validation import read_object
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import MAX_JSON_STRINGS, MAX_JSON_VALUES
from tests.support.processor_time import fastest, no_collections, processor_seconds

OWNER = JobOwner("key")
SIZE = 8 << 20


@pytest.fixture(scope="module")
def bodies() -> Iterator[JsonBodies]:
    made = JsonBodies(MAX_JSON_VALUES, MAX_JSON_STRINGS)
    yield made
    made.close()


async def longest_step(bodies: JsonBodies, body: bytes) -> float:
    """Seconds of this thread's processor time that the longest step of parsing took."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    watching = asyncio.create_task(watch())
    with no_collections():
        await bodies.parse(body, OWNER)
    watching.cancel()
    return longest


@pytest.mark.parametrize("unit", ["{},", "[],", '"",', "1,", "1.5,", "null,", '{"a":1},', "[[[[]]]],"])
async def test_a_body_of_many_values_is_refused_unparsed(bodies: JsonBodies, unit: str) -> None:
    body = f'{{"a": [{unit * (SIZE // len(unit))}1]}}'.encode()
    with no_collections():
        began = time.thread_time()
        with pytest.raises(ApiError, match=r"more than \d+ (values|strings)"):
            await bodies.parse(body, OWNER)
        refusing = time.thread_time() - began
    assert refusing < processor_seconds(lambda: read_object(body)) / 2


@pytest.mark.parametrize("unit", ["5,", "100000, ", "5.0,"])
async def test_as_many_token_ids_as_there_may_be_need_no_worker(unit: str) -> None:
    """Its start would cost a hundred times as much as parsing them does."""
    bodies = JsonBodies(MAX_JSON_VALUES, MAX_JSON_STRINGS)
    try:
        body = f'{{"a": [{unit * (MAX_JSON_VALUES - 1)}1]}}'.encode()
        assert len((await bodies.parse(body, OWNER))["a"]) == MAX_JSON_VALUES
        assert not bodies._pool._threads
    finally:
        bodies.close()


def test_the_worker_loads_no_web_framework() -> None:
    code = "import sys, gateway.http.bodies.json_worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert "gateway.http.bodies.json_worker" in loaded
    assert not {"fastapi", "starlette", "sqlalchemy", "pydantic"} & set(loaded)


@pytest.mark.parametrize("unit", ["a", "é", "\\n", "\\u00e9", "\\ud83d", '\\"', ",", "{"])
async def test_one_long_string_does_not_hold_the_loop(bodies: JsonBodies, unit: str) -> None:
    """For no more than 20 ms on an idle machine: less than a third of what parsing it there would take."""
    body = f'{{"a": "{unit * ((SIZE - 20) // len(unit.encode()))}"}}'.encode()
    longest = min([await longest_step(bodies, body) for _ in range(3)])
    assert longest < max(0.04, fastest(lambda: read_object(body)) / 3)


@pytest.mark.parametrize("size", [10, 100_000, 4_000_000])
async def test_bodies_of_any_size_are_the_same_object(bodies: JsonBodies, size: int) -> None:
    body = b'{"a": "%s\\ud83d", "n": [1, -2.5, null, true, 1e999]}' % (b"\\n" * size)
    assert await bodies.parse(body, OWNER) == {
        "a": "\n" * size + "\ufffd",
        "n": [1, -2.5, None, True, float("inf")],
    }


@pytest.mark.parametrize("size", [10, 4_000_000])
@pytest.mark.parametrize("body", ['["%s"]', '{"a": "%s"', '{"a": "%s"} x', ""])
async def test_anything_else_is_a_400(bodies: JsonBodies, body: str, size: int) -> None:
    with pytest.raises(ApiError) as caught:
        await bodies.parse(body.replace("%s", "\\n" * size).encode(), OWNER)
    assert caught.value.status == 400
