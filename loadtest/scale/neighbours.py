"""What else runs on this machine meanwhile: threads of others that want a core, on average over samples.

The simulation has so many more to share its cores with. Where the system does not tell (it is Linux that does), none.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

EVERY_SECONDS = 0.2


class Neighbours:
    """Counts from `with` to its end."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def mean(self) -> float:
        return sum(self._counts) / max(1, len(self._counts))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        while not self._over.wait(EVERY_SECONDS):
            with suppress(OSError, ValueError, IndexError):
                everybody = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
                self._counts.append(max(0, everybody - sum(wanting(process.pid) for process in ours)))


def wanting(pid: int) -> int:
    """Threads of a process that run or could."""
    count = 0
    with suppress(OSError):
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(OSError):
                count += stat.read_text().rpartition(")")[2].split()[0] == "R"
    return count
