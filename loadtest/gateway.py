"""`bench gateway`: what the gateway itself costs, in CPU time, beside litellm's proxy that serves the same.

Behind each stands a stub process that has no model: for the gateway a verifier on the real wire, for the proxy an
OpenAI server, both with the same text. Each side answers whole requests, which the stubs answer at once, and streams,
in which they say a token every PACE seconds; the sides take turns, round by round. CPU seconds are the measured
server's alone; it is kept on one core, and everything else on the others.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil
from rich.progress import track

from edgedraft.local.processes import Supervisor
from loadtest import chat_load
from loadtest.chat_load import Target
from loadtest.gateway_peers.process import START_SECONDS, Server, ServerError, cpu_seconds, keep_on, memory_mib, stub
from loadtest.gateway_peers.script import pieces
from loadtest.report import Result
from loadtest.settings import BenchSettings

KEY = "sk-bench-key"
PROMPT = "What does a lighthouse keeper do all night? Answer in a few sentences, please."
TOKENS = 64
PACE = 0.02  # seconds between the tokens of a stream
ROUNDS = 3
REQUESTS = 100  # of each kind in a round
WHOLE_AT_ONCE = 16
STREAMS_AT_ONCE = 32
MODELS = {False: "whole", True: "streamed"}  # one stub each
OURS, THEIRS = "edgedraft", "litellm"


@dataclass(frozen=True)
class Side:
    """A server under test, by its process and its address."""

    name: str
    pid: int
    url: str

    def target(self, stream: bool) -> Target:
        return Target(self.url, KEY, MODELS[stream], PROMPT, TOKENS, "".join(pieces(TOKENS)))


@dataclass
class Cell:
    """One side's rounds of one kind of request."""

    cpu: list[float] = field(default_factory=list)  # CPU seconds a request
    wall: list[float] = field(default_factory=list)  # seconds a request, all running ones together
    chunks: int = 0
    failures: list[str] = field(default_factory=list)


def gateway(settings: BenchSettings) -> Result:
    """Raises ServerError when a process that is needed does not come up."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        sides = [_ours(running, folder)]
        note = "not installed: EDGEDRAFT_BENCH_LITELLM_PYTHON names no Python"
        if settings.bench_litellm_python:
            try:
                sides.append(_theirs(running, folder, settings.bench_litellm_python))
            except (ServerError, OSError) as error:
                note = f"failed: {error}"
        cells = compare(sides)
        memory = {side.name: memory_mib(side.pid) for side in sides}
    used = {
        "tokens": TOKENS,
        "pace_s": PACE,
        "rounds": ROUNDS,
        "requests_per_round": REQUESTS,
        "whole_at_once": WHOLE_AT_ONCE,
        "streams_at_once": STREAMS_AT_ONCE,
        "machine_load_before": load_before,
        "machine_load_after": os.getloadavg()[0],
    }
    notes = [f"machine load {load_before:.1f} before, {used['machine_load_after']:.1f} after"]
    notes += [] if len(sides) > 1 else [f"{THEIRS} is {note}"]
    table = rows(cells, memory)
    return Result("gateway in front of stubs, medians of rounds", table, ratios(table), used, notes)


def compare(sides: list[Side]) -> dict[str, dict[bool, Cell]]:
    """All rounds, after a first that is not counted."""
    cells = {side.name: {False: Cell(), True: Cell()} for side in sides}
    for side in sides:
        for stream in cells[side.name]:
            _round(side, stream, Cell(), REQUESTS // 4)
    _pin(sides)
    for number in track(range(ROUNDS), "both sides in turn", transient=True):
        for side in sides if number % 2 else reversed(sides):
            for stream, cell in cells[side.name].items():
                _round(side, stream, cell, REQUESTS)
    return cells


def rows(cells: Mapping[str, Mapping[bool, Cell]], memory: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row a side. A streamed token's cost holds its share of the request's."""
    table = []
    for name, kinds in cells.items():
        whole, streamed = kinds[False], kinds[True]
        cpu = median(whole.cpu)
        table.append(
            {
                "server": name,
                "CPU_ms_per_request": 1e3 * cpu,
                "spread": f"±{(max(whole.cpu) - min(whole.cpu)) / 2 / cpu:.0%}",
                "requests_per_CPU_s": 1 / cpu,
                "requests_per_s_on_one_core": 1 / median(whole.wall),
                "CPU_ms_per_stream": 1e3 * median(streamed.cpu),
                "CPU_ms_per_streamed_token": 1e3 * median(streamed.cpu) / TOKENS,
                "tokens_per_chunk": TOKENS * REQUESTS * len(streamed.cpu) / max(1, streamed.chunks),
                "resident_MiB": memory[name],
                "failed": len(whole.failures) + len(streamed.failures),
            }
        )
    return table


def ratios(table: list[dict[str, Any]]) -> dict[str, float]:
    """How many times litellm's cost ours is. Empty without litellm."""
    if len(table) < 2:
        return {}
    ours, theirs = table
    return {
        "litellm_over_edgedraft_CPU_per_request": theirs["CPU_ms_per_request"] / ours["CPU_ms_per_request"],
        "litellm_over_edgedraft_CPU_per_streamed_token": theirs["CPU_ms_per_streamed_token"]
        / ours["CPU_ms_per_streamed_token"],
        "edgedraft_over_litellm_requests_per_s_on_one_core": ours["requests_per_s_on_one_core"]
        / theirs["requests_per_s_on_one_core"],
    }


def _round(side: Side, stream: bool, cell: Cell, requests: int) -> None:
    at_once = STREAMS_AT_ONCE if stream else WHOLE_AT_ONCE
    target = side.target(stream)

    async def work(session: aiohttp.ClientSession) -> tuple[float, chat_load.Load]:
        before = cpu_seconds(side.pid)
        result = await chat_load.load(target, requests, at_once, stream, session)
        return cpu_seconds(side.pid) - before, result

    cpu, result = chat_load.run(work)
    cell.cpu.append(cpu / requests)
    cell.wall.append(result.wall / requests)
    cell.chunks += result.chunks
    cell.failures += result.failures
    if result.failures:
        raise ServerError(f"{side.name} failed {len(result.failures)} of {requests} requests: {result.failures[0]}")


def _pin(sides: list[Side]) -> None:
    """The servers on the first core, this process and the stubs on the others."""
    cores = list(range(os.cpu_count() or 1))
    if len(cores) == 1:
        return
    here = psutil.Process()
    measured = {side.pid for side in sides}
    for process in (here, *here.children()):
        keep_on(process.pid, cores[:1] if process.pid in measured else cores[1:])


def _ours(running: ExitStack, folder: Path) -> Side:
    stubs = [_stub(running, "stub_verifier", folder, stream) for stream in MODELS]
    stack = running.enter_context(Supervisor(KEY, folder))
    database = f"sqlite+aiosqlite:///{folder / 'gateway.db'}"
    child = stack.start_gateway(*stubs, flags=("--port", "0", "--database", database))
    stack.wait_for_verifier()
    side = Side(OURS, child.popen.pid, child.address)
    for stream in MODELS:  # it is ready with its first verifier; the other one may be still to come
        _wait_answered(side.target(stream), stream)
    return side


def _theirs(running: ExitStack, folder: Path, python: str) -> Side:
    stubs = {stream: _stub(running, "stub_openai", folder, stream) for stream in MODELS}
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        + "".join(
            f"  - model_name: {MODELS[stream]}\n    litellm_params:\n      model: openai/{MODELS[stream]}\n"
            f"      api_base: {url}/v1\n      api_key: none\n"
            for stream, url in stubs.items()
        )
        + f"general_settings:\n  master_key: {KEY}\n"
    )
    port = _free_port()
    address = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    server = Server(
        [python, "-c", "from litellm import run_server; run_server()", "--config", str(config), *address],
        folder / "litellm.log",
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"},
    )
    running.callback(server.stop)
    url = f"http://127.0.0.1:{port}"
    server.wait_for(f"{url}/health/liveliness")
    return Side(THEIRS, server.process.pid, url)


def _wait_answered(target: Target, stream: bool) -> None:
    """Raises ServerError when the model does not come."""
    deadline = time.monotonic() + START_SECONDS
    while (result := chat_load.run(partial(_once, target, stream))).failures:
        if time.monotonic() > deadline:
            raise ServerError(result.failures[0])
        time.sleep(0.1)


async def _once(target: Target, stream: bool, session: aiohttp.ClientSession) -> chat_load.Load:
    return await chat_load.load(target, 1, 1, stream, session)


def _stub(running: ExitStack, module: str, folder: Path, stream: bool) -> str:
    """Its URL."""
    server = stub(module, MODELS[stream], str(PACE if stream else 0.0), folder=folder)
    running.callback(server.stop)
    return server.said_url()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
