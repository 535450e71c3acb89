"""Processor time of a piece of work, for tests that judge how it grows and not how fast the machine is.

A collection of all of the tests' objects is none of the work's, hence there is none meanwhile.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_ROUNDS = 5
_TRIFLE = 0.0005  # seconds; what takes less says nothing about how it grows


@contextmanager
def no_collections() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def processor_seconds(work: Callable[[], object]) -> float:
    """Of this thread."""
    with no_collections():
        began = time.thread_time()
        work()
        return time.thread_time() - began


def fastest(work: Callable[[], object]) -> float:
    """Of several rounds: processors' speeds change by themselves."""
    return min(processor_seconds(work) for _ in range(_ROUNDS))


def step_seconds(steps: Iterable[object]) -> list[float]:
    """What each item takes to make."""
    seconds: list[float] = []
    with no_collections():
        began = time.thread_time()
        for _ in steps:
            now = time.thread_time()
            seconds.append(now - began)
            began = now
    return seconds


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """That `work(size)` takes about eight times as long as for an eighth of it; with quadratic work that is 64 times.

    It ends with the first round that shows it.
    """
    small = large = float("inf")
    for _ in range(_ROUNDS):
        small = min(small, processor_seconds(lambda: work(size // 8)))
        large = min(large, processor_seconds(lambda: work(size)))
        if large < 8 * 2.5 * max(small, _TRIFLE):
            return
    raise AssertionError(f"{size} take {large:.4f} s, and an eighth of it {small:.4f} s")
