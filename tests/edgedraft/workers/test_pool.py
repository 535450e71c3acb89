"""The pool with real processes: limits, cancellation, setups, bounds, fairness and what is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psutil
import pytest

from edgedraft.workers.child import NICENESS
from edgedraft.workers.limits import QueueLimits, WorkerLimits
from edgedraft.workers.pool import (
    JobFailed,
    JobOwner,
    JobRefused,
    JobSetup,
    JobTooCostly,
    WorkerPool,
    WorkersUnavailable,
)
from tests.support.waiting import until

MODULE = "tests.edgedraft.workers.arithmetic_worker"
LIMITS = WorkerLimits(
    cpu_seconds=0.3, wall_seconds=20, setup_cpu_seconds=0.5, memory_bytes=1 << 30, output_bytes=1 << 20
)
OWNER = JobOwner("key")


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(MODULE, LIMITS)
    yield pool
    pool.close()


async def test_a_job_has_its_output_or_its_error(pool: WorkerPool) -> None:
    assert await pool.run(b"echo hello", OWNER) == b"hello"
    with pytest.raises(JobFailed, match=r"^just so$"):
        await pool.run(b"fail just so", OWNER)
    assert await pool.run(b"print", OWNER) == b"", "what is printed does not reach the pipe"
    assert pool.submit(b"echo blocking", OWNER).result(30) == b"blocking"


async def test_jobs_go_behind_what_their_process_serves(pool: WorkerPool) -> None:
    worker = psutil.Process(int(await pool.run(b"pid", OWNER)))
    assert worker.nice() == min(19, psutil.Process().nice() + NICENESS)


@pytest.mark.parametrize("job", [b"spin", b"eat 2000000000", b"large 2000000", b"exit"])
async def test_a_job_beyond_a_limit_ends_alone(pool: WorkerPool, job: bytes) -> None:
    with pytest.raises(JobTooCostly):
        await pool.run(job, OWNER)
    assert await pool.run(b"echo again", OWNER) == b"again"


async def test_elapsed_time_is_limited_too() -> None:
    pool = WorkerPool(MODULE, WorkerLimits(wall_seconds=0.2))
    try:
        with pytest.raises(JobTooCostly):
            await pool.run(b"sleep 60", OWNER)
    finally:
        pool.close()


async def test_who_gives_up_frees_the_worker(pool: WorkerPool) -> None:
    running = asyncio.create_task(pool.run(b"sleep 60", OWNER))
    waiting = [asyncio.create_task(pool.run(b"sleep 60", OWNER)) for _ in range(4)]
    await until(lambda: len(pool._running) == 2)
    for task in (running, *waiting):
        task.cancel()
    async with asyncio.timeout(30):
        assert await pool.run(b"echo next", JobOwner("other")) == b"next"
        await until(lambda: not pool._running)
    assert len(pool._queue) == 0


async def test_a_setup_is_sent_once_to_each_process(pool: WorkerPool) -> None:
    loads: list[str] = []

    def load() -> bytes:
        loads.append("model")
        return b"weights"

    jobs = [pool.run(b"setup", OWNER, JobSetup("model", load)) for _ in range(20)]
    assert await asyncio.gather(*jobs) == [b"WEIGHTS"] * 20
    assert 1 <= len(loads) <= 2
    assert await pool.run(b"setup", OWNER) == b"none"
    with pytest.raises(JobFailed, match="a bad setup"):
        await pool.run(b"setup", OWNER, JobSetup("other", lambda: b"bad"))
    with pytest.raises(JobTooCostly):
        await pool.run(b"setup", OWNER, JobSetup("third", lambda: b"endless"))


async def test_every_started_job_is_charged(pool: WorkerPool) -> None:
    charged: list[float] = []
    owner = JobOwner("key", 1.0, charged.append)
    await pool.run(b"work 0.1", owner)
    for job in (b"fail x", b"spin"):
        with pytest.raises((JobFailed, JobTooCostly)):
            await pool.run(job, owner)
    await until(lambda: len(charged) == 3)
    given_up = asyncio.create_task(pool.run(b"sleep 60", owner))
    await until(lambda: bool(pool._running))
    given_up.cancel()
    await until(lambda: len(charged) == 4)
    assert charged[0] >= 0.1
    assert charged[2] >= 0.3, "what was stopped at the limit is charged up to it"


async def test_a_job_is_charged_before_its_owner_goes_on(pool: WorkerPool) -> None:
    """Otherwise the checks of one request would go on beyond their budget."""
    for _ in range(50):
        charged: list[float] = []
        await pool.run(b"echo hello", JobOwner("key", 1.0, charged.append))
        assert len(charged) == 1


async def test_one_share_does_not_hold_up_another(pool: WorkerPool) -> None:
    """A flood of costly jobs: the first newcomer waits for one of them at most, later ones find a worker free."""
    flood = [asyncio.create_task(pool.run(b"work 0.2", JobOwner("flood"))) for _ in range(60)]
    await until(lambda: bool(pool._running))
    for _ in range(3):
        await pool.run(b"echo hi", JobOwner("newcomer"))
    assert sum(task.done() for task in flood) < 30
    for task in flood:
        task.cancel()


async def test_what_waits_is_bounded_per_share_and_in_all() -> None:
    pool = WorkerPool(MODULE, LIMITS, 1, QueueLimits(jobs_per_share=2, bytes_per_share=100, jobs=5, bytes=1000))
    try:
        first = asyncio.create_task(pool.run(b"sleep 60", JobOwner("a")))
        await until(lambda: bool(pool._running))
        for _ in range(2):
            pool.submit(b"echo", JobOwner("a"))
        with pytest.raises(JobRefused):
            pool.submit(b"echo", JobOwner("a"))
        pool.submit(b"x" * 90, JobOwner("b"))
        with pytest.raises(JobRefused):
            pool.submit(b"x" * 20, JobOwner("b"))
        pool.submit(b"x" * 900, JobOwner("c"))
        with pytest.raises(JobRefused):
            pool.submit(b"x" * 100, JobOwner("d"))
        first.cancel()
    finally:
        pool.close()


async def test_workers_end_that_were_not_needed_for_a_while() -> None:
    def children() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if MODULE in child.cmdline()]

    pool = WorkerPool(MODULE, LIMITS, size=3, idle_seconds=0.3)
    try:
        together = [asyncio.create_task(pool.run(b"sleep 1", OWNER)) for _ in range(2)]
        await until(lambda: len(children()) == 2)
        await asyncio.gather(*together)
        pids = {await pool.run(b"pid", OWNER)}
        await until(lambda: len(children()) == 1)
        for _ in range(5):  # one after another, at longer intervals than the time that the last one is kept for
            await asyncio.sleep(0.4)
            pids.add(await pool.run(b"pid", OWNER))
        assert len(pids) <= 2, "the last one stays"
        assert sorted(await asyncio.gather(*[pool.run(b"echo %d" % i, OWNER) for i in range(9)])) == [
            b"%d" % i for i in range(9)
        ]
    finally:
        pool.close()
    await until(lambda: not children())


async def test_a_worker_gets_no_secrets(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDRAFT_KEY", "secret")
    monkeypatch.setenv("DATABASE_URL", "secret")
    names = await pool.run(b"environment", OWNER)
    assert b"PATH" in names
    assert b"EDGEDRAFT" not in names
    assert b"DATABASE" not in names


async def test_after_close_nothing_runs() -> None:
    pool = WorkerPool(MODULE, LIMITS)
    process = psutil.Process(int(await pool.run(b"pid", OWNER)))
    waiting = asyncio.create_task(pool.run(b"sleep 60", OWNER))
    await until(lambda: bool(pool._running))
    await asyncio.to_thread(pool.close)
    with pytest.raises(WorkersUnavailable):
        await waiting
    with pytest.raises(WorkersUnavailable):
        await pool.run(b"echo", OWNER)
    assert not process.is_running()


async def test_a_module_that_does_not_start() -> None:
    pool = WorkerPool("tests.edgedraft.workers.missing", LIMITS)
    try:
        with pytest.raises(WorkersUnavailable):
            await pool.run(b"echo", OWNER)
    finally:
        pool.close()
