"""`bench soak`: mixed load on two gateways, two verifiers and three agents for a long time, to find what grows.

Samples every process's memory and open files under load, and compares them when idle before and after it, together with
what is still open then. It reports numbers and judges none.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, mean
from typing import Any

import psutil
from openai import APIError, AsyncOpenAI

from edgedraft.local.fleet import Fleet, replica_environment
from edgedraft.local.processes import ManagedProcess, Supervisor
from edgedraft.local.valkey import Valkey
from loadtest.metrics import open_sessions
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.workloads import mixed_prompts

GATEWAYS, VERIFIERS, AGENTS = 2, 2, 3
CONCURRENCY = 8
SAMPLES = 120  # over the whole time, at most one per second
WARM_UP = 0.2  # share of the time whose samples are left out, while caches and allocator pools fill
IDLE_SECONDS = 15.0  # after the load, until kept-alive connections have ended
CANCELLED = 6  # one streamed request in so many is cancelled by its client


@dataclass(frozen=True)
class Sample:
    """One process at one moment, in MiB and files (sockets among them)."""

    at: float
    memory: float
    files: int


@dataclass
class WatchedProcess:
    """A process with its sample before the load and those under load."""

    name: str
    child: ManagedProcess
    before: Sample
    samples: list[Sample] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Its memory over time; call it when idle, after the load."""
        after = sample(self.child, self.samples[-1].at)
        return {"process": self.name} | growth(self.before, self.samples, after)

    def left(self) -> dict[str, Any]:
        """What is still open; call it when idle, after the load."""
        after = sample(self.child, self.samples[-1].at)
        sessions = open_sessions(self.child.arguments[0], self.child.address)
        held = sessions.pop("kv_held", None)
        return {
            "process": self.name,
            "files_before": self.before.files,
            "files_at_most": max(sample.files for sample in self.samples),
            "files_after": after.files,
            "sessions_left": int(sum(sessions.values())) if sessions else None,
            "KV_tokens_left": None if held is None else int(held),
        }


def growth(before: Sample, samples: list[Sample], after: Sample) -> dict[str, float]:
    """Memory by phase, and its slopes by linear regression.

    First and last are means over a tenth of the time after the warm-up. One slope is over all the time after the
    warm-up, the late one over the last half of the run: a cache that fills flattens there, a leak does not.
    """
    warm = [sample for sample in samples if sample.at >= samples[-1].at * WARM_UP]
    tenth = max(1, len(warm) // 10)
    late = [sample for sample in warm if sample.at >= samples[-1].at / 2]
    return {
        "MiB_before": before.memory,
        "MiB_first": mean(sample.memory for sample in warm[:tenth]),
        "MiB_last": mean(sample.memory for sample in warm[-tenth:]),
        "MiB_per_hour": _slope(warm),
        "late_MiB_per_hour": _slope(late),
        "MiB_after": after.memory,
    }


def _slope(samples: list[Sample]) -> float:
    """MiB per hour."""
    return 3600 * linear_regression([sample.at for sample in samples], [sample.memory for sample in samples]).slope


def soak(settings: BenchSettings) -> Result:
    """Raises StartError or ValkeyUnavailable when a process does not start."""
    with tempfile.TemporaryDirectory() as name, Valkey() as valkey:
        folder = Path(name)
        env = replica_environment(valkey.url, f"sqlite:///{folder}/gateway.db")
        with Supervisor("bench-key", folder, env=env) as stack:
            model = ("--threads", str(settings.threads), "--dtype", settings.dtype, "--kv-tokens", "8192")
            fleet = Fleet.start(stack, GATEWAYS, VERIFIERS, verifier_flags=model)
            fleet.attach_agents(AGENTS, ("--threads", "1", "--no-past-outputs", "--no-polite"), name_prefix="agent")
            watched = [
                WatchedProcess(f"{kind} {index + 1}", child, sample(child, 0.0))
                for kind in ("gateway", "verifier", "agent")
                for index, child in enumerate(getattr(fleet, kind + "s"))
            ]
            outcomes = asyncio.run(_load(fleet, watched, settings.minutes * 60))
            time.sleep(IDLE_SECONDS)
            rows, left = [one.row() for one in watched], [one.left() for one in watched]
    return Result(
        f"{settings.minutes:g} minutes of mixed load, {CONCURRENCY} concurrent streams",
        rows,
        {f"{row['process'].replace(' ', '_')}_MiB_last_over_first": row["MiB_last"] / row["MiB_first"] for row in rows},
        {"minutes": settings.minutes, "dtype": settings.dtype, "threads": settings.threads, "samples": SAMPLES},
        [f"streams: {dict(outcomes)}"],
        [Result("what is still open; files include sockets", left, {}, {})],
    )


async def _load(fleet: Fleet, watched: list[WatchedProcess], seconds: float) -> Counter[str]:
    """Runs the closed loop for `seconds`; returns the number of requests by outcome."""
    outcomes: Counter[str] = Counter()
    clients = [AsyncOpenAI(base_url=f"{url}/v1", api_key=fleet.supervisor.key, max_retries=0) for url in fleet.urls]
    model = (await clients[0].models.list()).data[0].id
    began, rng = time.monotonic(), random.Random(0)

    async def client_loop() -> None:
        while time.monotonic() - began < seconds:
            try:
                outcomes[await _send_request(rng.choice(clients), model, rng)] += 1
            except APIError as error:
                outcomes[f"failed: {type(error).__name__}"] += 1
                await asyncio.sleep(0.5)

    async def take_samples() -> None:
        while (at := time.monotonic() - began) < seconds:
            for one in watched:
                one.samples.append(sample(one.child, at))
            await asyncio.sleep(max(1.0, seconds / SAMPLES))

    await asyncio.gather(take_samples(), *(client_loop() for _ in range(CONCURRENCY)))
    for client in clients:
        await client.close()
    return outcomes


async def _send_request(client: AsyncOpenAI, model: str, rng: random.Random) -> str:
    """Sends one request of a random kind; returns its outcome. Raises APIError."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": rng.choice(mixed_prompts()).text}],
        "temperature": rng.choice((0.0, 0.7)),
        "seed": rng.randrange(1 << 30),
        "max_tokens": rng.randint(8, 64),
        "extra_body": {"edgedraft": {"edge": rng.random() < 0.8}},
    }
    if rng.random() < 0.3:
        await client.chat.completions.create(**body)
        return "complete"
    cancel_after = rng.randint(1, 8) if rng.randrange(CANCELLED) == 0 else 0
    async with await client.chat.completions.create(**body, stream=True) as stream:
        count = 0
        async for _ in stream:
            count += 1
            if count == cancel_after:
                return "cancelled"
    return "streamed"


def sample(child: ManagedProcess, at: float) -> Sample:
    process = psutil.Process(child.popen.pid)
    return Sample(at, process.memory_info().rss / (1 << 20), process.num_fds())
