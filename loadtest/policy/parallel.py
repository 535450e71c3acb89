"""Independent measurements in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task = TypeVar("Task")
Found = TypeVar("Found")


def measure_all(measure: Callable[[Task], Found], tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Found]]:
    """Each task with its result, in the order in which they end. With several jobs `measure` must be picklable."""
    if jobs == 1:
        for task in tasks:
            yield task, measure(task)
        return
    with ProcessPoolExecutor(jobs) as pool:
        futures = {pool.submit(measure, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
