"""Attack: a gateway fills a desktop's disk with the lines that it makes the agent log, or its memory with pings."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from edgedraft.observability.logs import LineBudget, LineFilter
from edgedraft.wire import PROTOCOL, AgentWelcome, Close, Draft, Open, Sampling, decode_from_agent, encode_frame

SESSIONS, PER_FRAME = 4000, 50
REPEATING = [5, 6, 7, 8] * 4  # prompt lookup drafts at once


async def test_sessions_without_end_make_few_lines(tmp_path: Path) -> None:
    drafted = asyncio.Event()

    async def attack(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode_frame([AgentWelcome(PROTOCOL, "agent-1", "toy", 97, 8)]))
        for first in range(1, SESSIONS, PER_FRAME):
            numbers = range(first, first + PER_FRAME)
            opened = [Open(number, [1, 2, 3], Sampling(temperature=0), 8) for number in numbers]
            await connection.send(encode_frame([*opened, *[Close(number) for number in numbers]]))
        last = SESSIONS + PER_FRAME
        await connection.send(encode_frame([Open(last, REPEATING, Sampling(temperature=0), 64, window=4)]))
        try:
            while not drafted.is_set():
                if any(isinstance(m, Draft) and m.session == last for m in decode_from_agent(await connection.recv())):
                    drafted.set()
        except ConnectionClosed:
            pass

    file = tmp_path / "log"
    with file.open("w") as log:
        async with serve(attack, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            agent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edgedraft.cli", "attach", f"http://127.0.0.1:{port}", "--no-polite"),
                *("--key", "a-key", "--draft-model", "none", "--no-past-outputs", "--no-live", "--log-level", "debug"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )
            try:
                await asyncio.wait_for(drafted.wait(), 120)
            finally:
                agent.terminate()
                await agent.wait()
    lines = file.read_text().splitlines()
    assert len(lines) < 300, lines[-1]


def test_each_place_in_the_source_has_its_own_budget_and_says_what_was_left_out() -> None:
    lines = LineFilter(per_minute=60_000, burst=2)

    def passes(line: int) -> logging.LogRecord | None:
        record = logging.LogRecord("agent", logging.INFO, "file.py", line, "text", (), None)
        return record if lines.filter(record) else None

    assert [bool(passes(1)) for _ in range(2)] == [True, True]
    assert passes(2)


def test_a_budget_is_refilled_and_counts() -> None:
    now = [0.0]
    budget = LineBudget(per_minute=60, burst=2, clock=lambda: now[0])
    assert [budget.take() for _ in range(4)] == [0, 0, None, None]
    now[0] = 1.0
    assert budget.take() == 2
    assert budget.take() is None
