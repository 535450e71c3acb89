"""`bench gateway`: the gateway's own CPU time, compared with litellm's proxy.

Each has a stub without a model behind it: a verifier on the real wire protocol, or an OpenAI server, both with the same
text. Requests without streaming are answered by the stubs at once; streams get a token every TOKEN_INTERVAL seconds.
The sides take turns, round by round. CPU seconds are the measured server's alone; it is pinned to one core, everything
else to the others.
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
from loadtest.peers.gateways.process import (
    START_SECONDS,
    ServerError,
    ServerProcess,
    cpu_seconds,
    memory_mib,
    pin_to_cores,
    start_stub,
)
from loadtest.peers.gateways.script import script_pieces
from loadtest.report import Result
from loadtest.settings import BenchSettings

KEY = "sk-bench-key"
PROMPT = "What does a lighthouse keeper do all night? Answer in a few sentences, please."
TOKENS = 64
TOKEN_INTERVAL = 0.02  # seconds between the tokens of a stream
ROUNDS = 3
REQUESTS = 100  # of each kind in a round
REQUEST_CONCURRENCY = 16
STREAM_CONCURRENCY = 32
MODELS = {False: "complete", True: "streamed"}  # by whether requests stream; one stub each
OURS, THEIRS = "edgedraft", "litellm"


@dataclass(frozen=True)
class Side:
    """A server under test."""

    name: str
    pid: int
    url: str

    def target(self, stream: bool) -> Target:
        return Target(self.url, KEY, MODELS[stream], PROMPT, TOKENS, "".join(script_pieces(TOKENS)))


@dataclass
class Rounds:
    """One side's rounds of one kind of request."""

    cpu: list[float] = field(default_factory=list)  # CPU seconds per request
    wall: list[float] = field(default_factory=list)  # seconds per request, at the given concurrency
    chunks: int = 0
    failures: list[str] = field(default_factory=list)


def gateway(settings: BenchSettings) -> Result:
    """Raises ServerError when a needed process does not start."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        sides = [_start_gateway(running, folder)]
        note = "not installed: EDGEDRAFT_BENCH_LITELLM_PYTHON names no Python"
        if settings.bench_litellm_python:
            try:
                sides.append(_start_litellm(running, folder, settings.bench_litellm_python))
            except (ServerError, OSError) as error:
                note = f"failed: {error}"
        cells = compare(sides)
        memory = {side.name: memory_mib(side.pid) for side in sides}
    used = {
        "tokens": TOKENS,
        "token_interval_s": TOKEN_INTERVAL,
        "rounds": ROUNDS,
        "requests_per_round": REQUESTS,
        "request_concurrency": REQUEST_CONCURRENCY,
        "stream_concurrency": STREAM_CONCURRENCY,
        "machine_load_before": load_before,
        "machine_load_after": os.getloadavg()[0],
    }
    notes = [f"machine load {load_before:.1f} before, {used['machine_load_after']:.1f} after"]
    notes += [] if len(sides) > 1 else [f"{THEIRS} is {note}"]
    table = rows(cells, memory)
    return Result("gateway in front of stubs, medians of rounds", table, ratios(table), used, notes)


def compare(sides: list[Side]) -> dict[str, dict[bool, Rounds]]:
    """All rounds, after a warm-up."""
    cells = {side.name: {False: Rounds(), True: Rounds()} for side in sides}
    for side in sides:
        for stream in cells[side.name]:
            _round(side, stream, Rounds(), REQUESTS // 4)
    _pin(sides)
    for number in track(range(ROUNDS), "both sides in turn", transient=True):
        for side in sides if number % 2 else reversed(sides):
            for stream, rounds in cells[side.name].items():
                _round(side, stream, rounds, REQUESTS)
    return cells


def rows(cells: Mapping[str, Mapping[bool, Rounds]], memory: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row per side. A streamed token's cost includes its share of the request's."""
    table = []
    for name, kinds in cells.items():
        complete, streamed = kinds[False], kinds[True]
        cpu = median(complete.cpu)
        table.append(
            {
                "server": name,
                "CPU_ms_per_request": 1e3 * cpu,
                "spread": f"±{(max(complete.cpu) - min(complete.cpu)) / 2 / cpu:.0%}",
                "requests_per_CPU_s": 1 / cpu,
                "requests_per_s_on_one_core": 1 / median(complete.wall),
                "CPU_ms_per_stream": 1e3 * median(streamed.cpu),
                "CPU_ms_per_streamed_token": 1e3 * median(streamed.cpu) / TOKENS,
                "tokens_per_chunk": TOKENS * REQUESTS * len(streamed.cpu) / max(1, streamed.chunks),
                "resident_MiB": memory[name],
                "failed": len(complete.failures) + len(streamed.failures),
            }
        )
    return table


def ratios(table: list[dict[str, Any]]) -> dict[str, float]:
    """litellm's cost over the gateway's. Empty without litellm."""
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


def _round(side: Side, stream: bool, rounds: Rounds, requests: int) -> None:
    concurrency = STREAM_CONCURRENCY if stream else REQUEST_CONCURRENCY
    target = side.target(stream)

    async def work(session: aiohttp.ClientSession) -> tuple[float, chat_load.LoadResult]:
        before = cpu_seconds(side.pid)
        result = await chat_load.run_load(target, requests, concurrency, stream, session)
        return cpu_seconds(side.pid) - before, result

    cpu, result = chat_load.run_with_client(work)
    rounds.cpu.append(cpu / requests)
    rounds.wall.append(result.wall / requests)
    rounds.chunks += result.chunks
    rounds.failures += result.failures
    if result.failures:
        raise ServerError(f"{side.name} failed {len(result.failures)} of {requests} requests: {result.failures[0]}")


def _pin(sides: list[Side]) -> None:
    """Pins the servers with their workers to the first core, this process and the stubs to the others."""
    cores = list(range(os.cpu_count() or 1))
    if len(cores) == 1:
        return
    here = psutil.Process()
    servers = [psutil.Process(side.pid) for side in sides]
    measured = {process.pid for server in servers for process in (server, *server.children(recursive=True))}
    for process in (here, *here.children(recursive=True)):
        pin_to_cores(process.pid, cores[:1] if process.pid in measured else cores[1:])


def _start_gateway(running: ExitStack, folder: Path) -> Side:
    stubs = [_stub(running, "stub_verifier", folder, stream) for stream in MODELS]
    stack = running.enter_context(Supervisor(KEY, folder))
    database = f"sqlite+aiosqlite:///{folder / 'gateway.db'}"
    child = stack.start_gateway(*stubs, flags=("--port", "0", "--database", database))
    stack.wait_for_verifier()
    side = Side(OURS, child.popen.pid, child.address)
    for stream in MODELS:  # the gateway is ready with its first verifier; the other may not be connected yet
        _wait_answered(side.target(stream), stream)
    return side


def _start_litellm(running: ExitStack, folder: Path, python: str) -> Side:
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
    server = ServerProcess(
        [python, "-c", "from litellm import run_server; run_server()", "--config", str(config), *address],
        folder / "litellm.log",
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"},
    )
    running.callback(server.stop)
    url = f"http://127.0.0.1:{port}"
    server.wait_for(f"{url}/health/liveliness")
    return Side(THEIRS, server.process.pid, url)


def _wait_answered(target: Target, stream: bool) -> None:
    """Waits until the model answers. Raises ServerError."""
    deadline = time.monotonic() + START_SECONDS
    while (result := chat_load.run_with_client(partial(_once, target, stream))).failures:
        if time.monotonic() > deadline:
            raise ServerError(result.failures[0])
        time.sleep(0.1)


async def _once(target: Target, stream: bool, session: aiohttp.ClientSession) -> chat_load.LoadResult:
    return await chat_load.run_load(target, 1, 1, stream, session)


def _stub(running: ExitStack, module: str, folder: Path, stream: bool) -> str:
    """Starts a stub; returns its URL."""
    server = start_stub(module, MODELS[stream], str(TOKEN_INTERVAL if stream else 0.0), folder=folder)
    running.callback(server.stop)
    return server.read_url()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
