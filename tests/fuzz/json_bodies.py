"""Fuzzes the gateway's endpoints by JSON bodies that Schemathesis draws from the gateway's own OpenAPI document.

Half of the bodies are valid by the document, half are not; each is followed by three that have some fields of others,
since drawing takes longer than answering. Behind the gateway stands a real verifier. No response may be a 5xx but 503,
none may take longer than a minute, and no traceback may be logged. The gateway's memory and the time that its event
loop is held are read beside it. Bodies are drawn by processes of their own, so that the others go on meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Protocol

import httpx

from tests.support.server_processes import KEY, ServerUnderTest, running_servers, served_model

DRAWN_AT_ONCE = 250
DRAWERS = 2
SIDE_BY_SIDE = 8
LONGEST_ANSWER = 60.0  # seconds
GROWTH_MIB = 128
LONG_RUN = 10_000  # cases, from which on holds are taken strictly
LONGEST_HOLD, LONGEST_HOLD_BESIDE_TESTS = 0.02, 0.5  # seconds, invariant 6
READ_EVERY_CASES, READ_EVERY_SECONDS = 1000, 20.0  # the gauge of holds looks back over one minute
SETTLED = 65.0  # seconds from the start, before which the gauge shows what starting took
CROSSED = 3  # bodies with fields of others, for each that was drawn
SHORT, LONG = 3, 256  # tokens; few, so that most of the time is the gateway's
FEW = 64  # one in so many bodies may ask for LONG ones
EXPECTED = {503}
KEPT_LINES = 20
PATHS = (  # drawing a chat takes ten times as long as anything else
    *("/v1/chat/completions",) * 2,
    *("/v1/completions",) * 4,
    *("/v1/responses",) * 6,
    *("/v1/responses/input_tokens",) * 2,
    *("/tokenize",) * 2,
    *("/detokenize",) * 2,
)


def draw(document: dict[str, Any], path: str, valid: bool, seed: int, count: int) -> tuple[str, list[Any]]:
    """`path` and bodies of its POST. Runs in a process of its own."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    warnings.simplefilter("ignore")
    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    drawn: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=HealthCheck.all(),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        drawn.append(case.body)

    collect()
    return path, [body for body in drawn if isinstance(body, dict | list | str | int | float | bool | None)]


def cross(bodies: list[Any], rng: Random) -> list[Any]:
    """Each body, and behind it CROSSED ones in which some fields are those of others, or missing."""
    objects = [body for body in bodies if isinstance(body, dict)]
    crossed: list[Any] = []
    for body in bodies:
        crossed.append(body)
        if isinstance(body, dict):
            for _ in range(CROSSED):
                mixed = body | {name: value for name, value in rng.choice(objects).items() if rng.random() < 0.4}
                crossed.append({name: value for name, value in mixed.items() if rng.random() < 0.95})
    return crossed


def make_short(body: Any, model: str, rng: Random) -> Any:
    """Names a model that is there and asks for few tokens, in most bodies; everything else stays as it was drawn."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not rng.randrange(8):
        return body
    body = body | {"model": model}
    limit = "max_output_tokens" if "input" in body else "max_tokens"
    most = SHORT if rng.randrange(FEW) else LONG
    for name in {limit, "max_completion_tokens"} & {limit, *body}:
        if name not in body or (type(body[name]) is int and body[name] > most):
            body[name] = most
    if isinstance(body.get("messages"), list):
        body["messages"] = [
            message | {"content": "Go on."} if isinstance(message, dict) and not message.get("content") else message
            for message in body["messages"]
        ]
    return body


class Counts(Protocol):
    """What of a Tally (__main__.py) is used here."""

    frames: int
    accepted: int
    rejected: int
    closes: Counter[int]

    def escape(self, error: BaseException | str, frame: bytes = b"") -> None: ...


class Readings:
    """The gateway's memory and the longest hold of its event loop, read every so many cases and seconds."""

    def __init__(self, http: httpx.AsyncClient, gateway: ServerUnderTest) -> None:
        self._http = http
        self._gateway = gateway
        self._began = self._read_at = time.monotonic()
        self.longest_hold = 0.0
        self.first_mib = self.last_mib = 0

    async def take(self, cases: int) -> None:
        """Prints a line every READ_EVERY_CASES cases."""
        now = time.monotonic()
        if cases % READ_EVERY_CASES and now - self._read_at < READ_EVERY_SECONDS:
            return
        self._read_at = now
        shown = (await self._http.get("/metrics")).text
        found = re.search(r"^edgedraft_gateway_event_loop_held_seconds (\S+)$", shown, re.MULTILINE)
        assert found, "the gateway has no such gauge"
        held = float(found[1])
        if now - self._began > SETTLED:
            self.longest_hold = max(self.longest_hold, held)
        self.last_mib = self._gateway.memory() >> 20
        if cases >= READ_EVERY_CASES and not self.first_mib:
            self.first_mib = self.last_mib
        if cases % READ_EVERY_CASES == 0:
            seconds = now - self._began
            print(
                f"  {cases:,} cases in {seconds:.0f} s, {self.last_mib} MiB, held for {held * 1000:.1f} ms within a "
                f"minute, for {self.longest_hold * 1000:.1f} ms so far",
                flush=True,
            )


async def send(http: httpx.AsyncClient, path: str, body: bytes) -> int:
    """The status of the complete answer."""
    async with http.stream("POST", path, content=body, headers={"content-type": "application/json"}) as response:
        async for _ in response.aiter_raw():
            pass
        return response.status_code


async def fuzz_json(stats: Counts, count: int, rng: Random, folder: Path) -> None:
    """Sends `count` bodies. Accepted are those with a 2xx."""
    loop = asyncio.get_running_loop()
    with running_servers(folder) as running, ProcessPoolExecutor(DRAWERS, initializer=os.nice, initargs=(5,)) as pool:
        gateway = running["gateway"]
        headers = {"authorization": f"Bearer {KEY}"}
        base = "http://{}:{}".format(*gateway.address)
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=LONGEST_ANSWER, trust_env=False) as http:
            model = await served_model(http)
            document = (await http.get("/openapi.json")).json()
            readings = Readings(http, gateway)
            drawn_at_once = min(DRAWN_AT_ONCE, max(10, count // 20))

            def drawing() -> asyncio.Future[tuple[str, list[Any]]]:
                path, valid = rng.choice(PATHS), rng.random() < 0.5
                return loop.run_in_executor(pool, draw, document, path, valid, rng.getrandbits(32), drawn_at_once)

            async def one(path: str, body: bytes) -> None:
                try:
                    status = await send(http, path, body)
                except httpx.HTTPError as error:
                    stats.escape(f"{path}: {error!r}", body)
                    return
                stats.closes[status] += 1
                stats.accepted += status < 300
                stats.rejected += status >= 300
                if status >= 500 and status not in EXPECTED:
                    stats.escape(f"{path}: {status}", body)

            batches = {drawing() for _ in range(2 * DRAWERS)}
            while stats.frames < count:
                done, _ = await asyncio.wait(batches, return_when=asyncio.FIRST_COMPLETED)
                batches.remove(drawn := done.pop())
                batches.add(drawing())
                path, bodies = drawn.result()
                running_cases: set[asyncio.Task[None]] = set()
                for body in cross(bodies, rng):
                    try:
                        encoded = json.dumps(make_short(body, model, rng)).encode()
                    except (TypeError, ValueError):
                        continue
                    if len(running_cases) >= SIDE_BY_SIDE:
                        _, running_cases = await asyncio.wait(running_cases, return_when=asyncio.FIRST_COMPLETED)
                    running_cases.add(asyncio.create_task(one(path, encoded)))
                    stats.frames += 1
                    await readings.take(stats.frames)
                if running_cases:
                    await asyncio.wait(running_cases)
            for batch in batches:
                batch.cancel()
        longest = LONGEST_HOLD if count >= LONG_RUN else LONGEST_HOLD_BESIDE_TESTS
        if readings.longest_hold > longest:
            stats.escape(f"the gateway's event loop was held for {readings.longest_hold * 1000:.0f} ms")
        if readings.last_mib - readings.first_mib > GROWTH_MIB and readings.first_mib:
            stats.escape(f"the gateway grew from {readings.first_mib} to {readings.last_mib} MiB")
        for server in running.values():
            if "Traceback" in server.log.read_text():
                stats.escape(f"{server.name} logged a traceback: {server.log.read_text()[-1500:]}")
        held = [line for line in gateway.log.read_text().splitlines() if "the event loop was held" in line]
        print("\n".join(held[:KEPT_LINES]))
