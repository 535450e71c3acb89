"""`bench streams`: a thousand concurrent streams through one gateway process, every text compared.

A stub verifier sends one token of each stream every TOKEN_INTERVAL seconds. Three waves follow each other, so that
memory that one wave does not release shows in the next.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from edgedraft.local.processes import Supervisor
from edgedraft.serving.open_files import allow_many_files
from loadtest import chat_load
from loadtest.chat_load import LoadResult, Target
from loadtest.peers.gateways.process import cpu_seconds, memory_mib, start_stub
from loadtest.peers.gateways.script import script_pieces
from loadtest.report import Result
from loadtest.settings import BenchSettings

KEY = "bench-key"
PROMPT = "What does a lighthouse keeper do all night?"
STREAMS = 1000
TOKENS = 48
TOKEN_INTERVAL = 0.25  # seconds between two tokens of a stream
WAVES = 3
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Wave:
    """One wave with the gateway's CPU seconds and resident MiB before it, at most, and SETTLE_SECONDS after it."""

    load: LoadResult
    cpu: float
    before: float
    peak: float
    after: float


def streams(settings: BenchSettings) -> Result:
    """Raises ServerError or StartError when a process does not start."""
    allow_many_files()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verifier = start_stub("stub_verifier", "stub", str(TOKEN_INTERVAL), folder=folder)
        try:
            with Supervisor(KEY, folder) as stack:
                database = f"sqlite+aiosqlite:///{folder / 'gateway.db'}"
                flags = ("--port", "0", "--database", database, "--max-sessions-per-key", str(STREAMS))
                gateway = stack.start_gateway(verifier.read_url(), flags=flags)
                stack.wait_for_verifier()
                target = Target(stack.url, KEY, "stub", PROMPT, TOKENS, "".join(script_pieces(TOKENS)))
                waves = [run_wave(target, gateway.popen.pid, STREAMS) for _ in range(WAVES)]
        finally:
            verifier.stop()
    used = {
        "streams": STREAMS,
        "tokens": TOKENS,
        "token_interval_s": TOKEN_INTERVAL,
        "machine_load_after": os.getloadavg()[0],
    }
    ratios = {"peak_of_last_wave_over_first": waves[-1].peak / waves[0].peak}
    failures = [f"lost: {failure}" for wave in waves for failure in wave.load.failures[:3]]
    return Result("concurrent streams through one gateway process", rows(waves), ratios, used, failures)


def run_wave(target: Target, pid: int, count: int) -> Wave:
    """Runs `count` streams that begin together on the gateway process `pid`."""

    async def work(session: aiohttp.ClientSession) -> Wave:
        before, cpu, peak = memory_mib(pid), cpu_seconds(pid), 0.0
        running = asyncio.create_task(chat_load.run_load(target, count, count, stream=True, session=session))
        while not running.done():
            peak = max(peak, memory_mib(pid))
            await asyncio.wait([running], timeout=0.1)
        used = cpu_seconds(pid) - cpu
        await asyncio.sleep(SETTLE_SECONDS)
        return Wave(running.result(), used, before, peak, memory_mib(pid))

    return chat_load.run_with_client(work)


def rows(waves: list[Wave]) -> list[dict[str, Any]]:
    return [
        {
            "wave": number,
            "texts_correct": wave.load.correct,
            "lost": len(wave.load.failures),
            "tokens_per_chunk": wave.load.correct * TOKENS / max(1, wave.load.chunks),
            "wall_s": wave.load.wall,
            "gateway_CPU_s": wave.cpu,
            "MiB_before": wave.before,
            "MiB_peak": wave.peak,
            "MiB_after": wave.after,
        }
        for number, wave in enumerate(waves, 1)
    ]
