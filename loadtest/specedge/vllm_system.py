"""vLLM alone as a system: a process with its own scheduler and speculation, stepped on the simulator's clock."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.peers.engines.process import RunnerProcess
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters


class VllmProcess(RunnerProcess):
    """The process of peers/engines/run_vllm_steps.py."""

    def __init__(self, setup: dict[str, Any], log: Path) -> None:
        """Waits until it is ready. Raises PeerError."""
        super().__init__(sys.executable, "run_vllm_steps", setup, 1, log)
        self.wait_ready()

    def step(self, opened: Sequence[Any], closed: Sequence[str], run: bool = True) -> tuple[list[Any], float]:
        """Opens and closes requests and, if `run`, runs one step. Raises PeerError.

        Returns (request, tokens, finished) of each request that got tokens, and the CPU seconds.
        """
        answer = self.ask({"open": opened, "close": closed, "step": run})
        return answer["made"], answer["seconds"]


class VllmSystem:
    """loadtest.simulator.load.System over one such process."""

    def __init__(self, clock: Clock, process: VllmProcess, eos: tuple[int, ...]) -> None:
        self.meters = Meters()
        self.clock = clock
        self._process, self._eos = process, eos
        self._streams: dict[str, Stream] = {}
        self._new: list[Any] = []
        self._stepping = False
        self._on_tokens: OnTokens = lambda stream, tokens: None

    def subscribe(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens

    def stop(self) -> None:
        self._process.step(self._new, list(self._streams), run=False)
        self._new, self._streams = [], {}  # a step may still be scheduled on the clock; it ends in the next run

    def submit(self, stream: Stream) -> None:
        name, chat = str(stream.key), stream.chat
        text = [*chat.prompt, *chat.text[: stream.num_prior]]
        self._streams[name] = stream
        self._new.append((name, text, chat.max_tokens - stream.num_prior, self._eos, stream.salt))
        self._start_step()

    def _start_step(self) -> None:
        if self._stepping or not self._streams:
            return
        self._stepping = True
        results, seconds = self._process.step(self._new, ())
        self._new = []
        self.clock.call_later(seconds, lambda: self._finish_step(results, seconds))

    def _finish_step(self, results: Sequence[Any], seconds: float) -> None:
        self.meters.server_seconds += seconds
        self.meters.steps += 1
        for name, tokens, finished in results:
            if (stream := self._streams.get(name)) is None:
                continue
            self.meters.verifies += 1
            self.meters.accepted += len(tokens) - 1
            self._on_tokens(stream, tokens)
            if finished:
                del self._streams[name]
                self._on_tokens(stream, ())
        self._stepping = False
        self._start_step()
