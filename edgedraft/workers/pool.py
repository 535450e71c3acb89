"""A pool of bounded worker processes that all keys of a program share fairly.

Jobs wait in a FairQueue; a thread per worker hands them to its process. Threads and processes are started when jobs
wait for them. One is kept; the others end when they were not needed for a while, since a process with a large
tokenizer takes tens of megabytes. A job that exceeds a limit, or that its caller gives up, ends its process; another
one takes its place.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from edgedraft.workers.fair_queue import FairQueue
from edgedraft.workers.limits import QueueLimits, WorkerLimits
from edgedraft.workers.process import WorkerEnded, WorkerProcess
from edgedraft.workers.protocol import Reply

GIVE_UP_SECONDS = 0.05  # that a job may go on after its caller gave it up: ending it costs a new process
IDLE_SECONDS = 60.0  # a process ends when so long not all of them were needed, unless it is the only one
_WATCH_SECONDS = 0.05  # between two looks at the running jobs' deadlines


class JobFailed(Exception):
    """The worker could not do the job; the text is its error's."""


class JobTooCostly(Exception):
    """The job exceeded the limits of processor time, elapsed time, memory or output."""


class JobRefused(Exception):
    """Too much waits already, of this share or in all."""


class WorkersUnavailable(Exception):
    """No process can be started, or the pool is closed."""


@dataclass(frozen=True, slots=True)
class JobOwner:
    """Whose jobs they are. Owners of the same `share` share one part of the workers, in proportion to `weight`.

    `charge` is called with the processor seconds of every job that was started, however it ended.
    """

    share: str
    weight: float = 1.0
    charge: Callable[[float], object] = lambda seconds: None


@dataclass(frozen=True, slots=True)
class JobSetup:
    """What several jobs need. The name stands for one content; `load` is called for each process that lacks it."""

    name: str
    load: Callable[[], bytes]


NO_SETUP = JobSetup("", bytes)


@dataclass(eq=False, slots=True)
class _PoolJob:
    owner: JobOwner
    content: bytes
    setup: JobSetup
    charge: Callable[[float], object]
    future: Future[bytes] = field(default_factory=Future)
    worker: WorkerProcess | None = None
    deadline: float = 0.0  # by time.monotonic(), while it runs


class WorkerPool:
    """At most `size` processes that run `python -m module` (child.py). Safe for use from several threads and loops."""

    def __init__(
        self,
        module: str,
        limits: WorkerLimits,
        size: int = 2,
        queue_limits: QueueLimits | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._module = module
        self._limits = limits
        self._size = size
        self._queue_limits = queue_limits or QueueLimits()
        self._idle_seconds = idle_seconds
        self._queue: FairQueue[_PoolJob] = FairQueue(size)
        self._bytes: Counter[str] = Counter()  # that wait, by share
        self._running: set[_PoolJob] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads that wait for a job
        self._all_busy_at = 0.0  # by time.monotonic(), the last time that none did
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._closed = False

    async def run(self, content: bytes, owner: JobOwner, setup: JobSetup = NO_SETUP) -> bytes:
        """As `submit`, and waits. Cancelling it takes the job from the queue or ends the process that does it.

        The owner is charged in this event loop.
        """
        loop = asyncio.get_running_loop()

        def charge(seconds: float) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(owner.charge, seconds)

        job = self._enqueue(_PoolJob(owner, content, setup, charge))
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._give_up(job)
            raise

    def submit(self, content: bytes, owner: JobOwner, setup: JobSetup = NO_SETUP) -> Future[bytes]:
        """Queue a job. The future has its output. The owner is charged in a thread of the pool.

        Raises JobRefused. The future raises JobFailed, JobTooCostly or WorkersUnavailable.
        """
        return self._enqueue(_PoolJob(owner, content, setup, owner.charge)).future

    def close(self) -> None:
        """Kills the processes; jobs that wait or run raise WorkersUnavailable."""
        with self._changed:
            self._closed = True
            waiting, running = self._queue.clear(), list(self._running)
            self._changed.notify_all()
        for job in waiting:
            _set_exception(job, WorkersUnavailable("the workers are stopped"))
        for job in running:
            if job.worker:
                job.worker.kill()
        for thread in [*self._threads, *([self._watcher] if self._watcher else [])]:
            thread.join()

    def _enqueue(self, job: _PoolJob) -> _PoolJob:
        limits, share, size = self._queue_limits, job.owner.share, len(job.content)
        with self._changed:
            if self._closed:
                _set_exception(job, WorkersUnavailable("the workers are stopped"))
                return job
            waiting = len(self._queue)
            if (
                self._queue.waiting(share) >= limits.jobs_per_share
                or waiting >= limits.jobs
                or (self._bytes[share] and self._bytes[share] + size > limits.bytes_per_share)
                or (waiting and self._bytes.total() + size > limits.bytes)
            ):
                raise JobRefused("too much work of this kind is waiting")
            self._bytes[share] += size
            self._queue.put(share, job, job.owner.weight)
            if self._idle:
                self._changed.notify()
            elif len(self._threads) < self._size:
                self._start_thread()
        return job

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._module} worker", daemon=True)
        self._threads.append(thread)
        thread.start()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name=f"{self._module} deadlines", daemon=True)
            self._watcher.start()

    def _give_up(self, job: _PoolJob) -> None:
        with self._changed:
            if self._queue.remove(job.owner.share, job):
                self._count_taken(job)
            elif job in self._running:
                job.deadline = min(job.deadline, time.monotonic() + GIVE_UP_SECONDS)

    def _count_taken(self, job: _PoolJob) -> None:
        self._bytes[job.owner.share] -= len(job.content)
        if not self._bytes[job.owner.share]:
            del self._bytes[job.owner.share]

    def _work(self) -> None:
        """A thread's loop: one process after another, one job after another."""
        worker: WorkerProcess | None = None
        while True:
            with self._changed:
                while (taken := None if self._closed else self._queue.take()) is None:
                    if self._closed:
                        break
                    if self._is_surplus():
                        self._threads.remove(threading.current_thread())
                        break
                    self._idle += 1
                    self._changed.wait(self._idle_seconds)
                    self._idle -= 1
                if taken is None:
                    break
                share, job, charged = taken
                self._count_taken(job)
                if not self._idle:
                    self._all_busy_at = time.monotonic()
            began, seconds = time.monotonic(), 0.0
            outcome: bytes | Exception
            try:
                if worker is None:
                    worker = self._start_worker(job)
                    began = time.monotonic()
                reply = self._do(worker, job)
                seconds = reply.cpu_seconds
                outcome = JobFailed(reply.error) if reply.error else reply.output
            except WorkerEnded:
                seconds = min(time.monotonic() - began, self._limits.cpu_seconds)
                stopped = WorkersUnavailable("the workers are stopped")
                outcome = stopped if self._closed else JobTooCostly("it needs too much time or memory")
                if worker:
                    worker.close()
                worker = None
            except OSError as error:
                outcome = WorkersUnavailable(f"no worker can be started: {error.strerror or error}")
            except Exception as error:  # of what loads the setup
                outcome = error
            with self._changed:
                self._running.discard(job)
                self._queue.finish(share, charged, seconds)
                self._changed.notify()  # its share may have waited for this to end
            job.charge(seconds)  # before its owner goes on, who may ask for the next one at once
            if isinstance(outcome, Exception):
                _set_exception(job, outcome)
            else:
                with suppress(InvalidStateError):  # given up
                    job.future.set_result(outcome)
        if worker:
            worker.close()

    def _is_surplus(self) -> bool:
        """Whether one worker less would have been enough for a while."""
        return len(self._threads) > 1 and time.monotonic() - self._all_busy_at > self._idle_seconds

    def _start_worker(self, job: _PoolJob) -> WorkerProcess:
        """Raises OSError for a process that does not start."""
        worker = WorkerProcess(self._module, self._limits)
        self._set_deadline(worker, job, self._limits.setup_seconds)
        try:
            worker.wait_ready()
        except WorkerEnded:
            worker.close()
            raise OSError("it ended at once") from None
        return worker

    def _do(self, worker: WorkerProcess, job: _PoolJob) -> Reply:
        """Raises WorkerEnded."""
        loading = not worker.has_setup(job.setup.name)
        self._set_deadline(worker, job, self._limits.wall_seconds + (self._limits.setup_seconds if loading else 0.0))
        if loading:
            worker.send_setup(job.setup.name, job.setup.load())
        return worker.run(job.setup.name, job.content)

    def _set_deadline(self, worker: WorkerProcess, job: _PoolJob, seconds: float) -> None:
        with self._changed:
            given_up = job.future.cancelled()
            job.worker, job.deadline = worker, time.monotonic() + (GIVE_UP_SECONDS if given_up else seconds)
            self._running.add(job)
            if self._closed:
                worker.kill()

    def _watch(self) -> None:
        """Kills workers whose job has gone on past its deadline."""
        while not self._closed:
            with self._changed:
                now = time.monotonic()
                for job in self._running:
                    if job.worker and job.deadline < now:
                        job.worker.kill()
            time.sleep(_WATCH_SECONDS)


def _set_exception(job: _PoolJob, error: Exception) -> None:
    with suppress(InvalidStateError):  # given up
        job.future.set_exception(error)
