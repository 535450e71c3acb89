"""An engine that broke for good: its process ends, so that gateways open its sessions elsewhere."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence

from edgedraft.wire import Open, Sampling
from tests.verifier.scheduling.test_scheduler import LIMITS, Counting
from verifier.engine.interface import EngineLost, ScheduledSession, StepResult
from verifier.engine_loop import WARM_UP_KEY, EngineLoop
from verifier.metrics import Metrics


class Lost(Counting):
    """Breaks in the first step after the warm-up."""

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        if any(item.session != WARM_UP_KEY for item in scheduled):
            raise EngineLost("a worker is gone")
        return super().step(scheduled)


def test_an_engine_that_is_lost_takes_its_process_along() -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    try:
        loop = EngineLoop(Lost(2), LIMITS, lambda answers: None, Metrics("toy"))
        loop.start()
        loop.post(1, Open(1, [0, 0], Sampling(temperature=0), 5))
        deadline = time.monotonic() + 10
        while not told.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)  # a wait would not let the handler run: the signal is the other thread's
        assert told.is_set()
        loop.stop()
        assert loop.broken
    finally:
        signal.signal(signal.SIGTERM, before)
