"""What one job may use of a worker process, which is killed beyond it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bounds of one worker process and of its jobs, one at a time."""

    cpu_seconds: float = 2.0
    """Processor time of a job, so that a busy machine accepts what an idle one does."""
    wall_seconds: float = 30.0
    """Elapsed time: for a worker that is stopped or swapped out, and where processor time cannot be limited."""
    memory_bytes: int = 1 << 30
    """Address space of the process."""
    output_bytes: int = 1 << 26
    """Of a job's result."""
    setup_cpu_seconds: float = 20.0
    """Processor time of loading what several jobs share (see WorkerPool.submit)."""
    setup_seconds: float = 60.0
    """Elapsed time of starting the process, and of that loading."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for a worker. A share is whoever the jobs belong to, mostly an API key."""

    jobs_per_share: int = 256
    bytes_per_share: int = 64 << 20
    jobs: int = 4096
    bytes: int = 256 << 20
