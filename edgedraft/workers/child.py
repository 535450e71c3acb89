"""The worker process's side of a pool: what `python -m MODULE` of a worker module runs.

A worker module calls `serve(handle, load_setup)` in its `__main__` part. The process does one job after another, within
the limits of its arguments; a job or a setup that exceeds the processor time or the memory ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from edgedraft.workers.memory import trim_memory
from edgedraft.workers.protocol import Reply, Setup, decode_to_worker, read_frame, write_frame

S = TypeVar("S")

MAX_FRAME = (1 << 32) - 1
READY = b"ready\n"
NICENESS = 5  # above the parent's: streams that run go before work for those that do not


def serve(handle: Callable[[bytes, S | None], bytes], load_setup: Callable[[bytes], S] | None = None) -> None:
    """Do jobs until the pipe ends. `handle` takes a job and what `load_setup` returned for the setup that it names.

    An exception of either is the job's error, by its text.
    """
    cpu_seconds, setup_cpu_seconds, memory_bytes = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    jobs, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not reach the pipe
    _limit_memory(memory_bytes)
    _lower_priority()
    replies.write(READY)
    replies.flush()
    loaded: dict[str, S] = {}
    failed: dict[str, str] = {}
    setup_seconds = 0.0
    while frame := read_frame(jobs, MAX_FRAME):
        message = decode_to_worker(frame)
        began = time.process_time()
        if isinstance(message, Setup):
            try:
                if load_setup is None:
                    raise ValueError("this worker takes no setup")
                _limit_cpu(setup_cpu_seconds)
                loaded[message.name] = load_setup(message.content)
            except Exception as error:
                failed[message.name] = _text(error)
            _limit_cpu(0)
            trim_memory()
            setup_seconds += time.process_time() - began
            continue
        output, text = b"", failed.get(message.setup, "")
        if not text:
            _limit_cpu(cpu_seconds)
            try:
                output = handle(message.content, loaded.get(message.setup))
            except MemoryError:  # what else the process holds is in an unknown state
                os._exit(1)
            except Exception as error:
                text = _text(error)
            _limit_cpu(0)
        write_frame(replies, Reply(time.process_time() - began + setup_seconds, output, text))
        setup_seconds = 0.0


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _limit_memory(size: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit; a container's may be lower
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _lower_priority() -> None:
    with suppress(AttributeError, OSError):  # Windows has no such call
        os.nice(NICENESS)


def _limit_cpu(seconds: float) -> None:
    """Has the process killed after so much more processor time; 0 removes the limit. Does nothing on Windows."""
    with suppress(AttributeError):
        signal.setitimer(signal.ITIMER_PROF, seconds)
