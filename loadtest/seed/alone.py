"""vLLM alone as one of the ways: a process with its own scheduler and speculation, stepped on the benchmark's clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.engine_peers.process import Runner
from loadtest.seed.clock import Clock
from loadtest.seed.fleet import Meters, Stream


class Stepped(Runner):
    """The process of engine_peers/run_vllm_steps.py."""

    def __init__(self, setup: dict[str, Any], log: Path) -> None:
        """Waits until it is ready. Raises PeerError."""
        super().__init__(sys.executable, "run_vllm_steps", setup, 1, log)
        self.wait_ready()

    def step(self, opened: Sequence[Any], closed: Sequence[str], run: bool = True) -> tuple[list[Any], float]:
        """What was made, of (request, tokens, whether it has ended), and the CPU seconds. Raises PeerError."""
        answer = self.ask({"open": opened, "close": closed, "step": run})
        return answer["made"], answer["seconds"]


class Alone:
    """fleet.System over one such process."""

    def __init__(self, clock: Clock, process: Stepped, eos: tuple[int, ...]) -> None:
        self.meters = Meters()
        self.clock = clock
        self._process, self._eos = process, eos
        self._streams: dict[str, Stream] = {}
        self._new: list[Any] = []
        self._stepping = False
        self._committed: Callable[[Stream, Sequence[int]], None] = lambda stream, tokens: None

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None:
        self._committed = committed

    def stop(self) -> None:
        self._process.step(self._new, list(self._streams), run=False)
        self._new, self._streams = [], {}  # a step may be under way on the clock; it ends in the next run

    def begin(self, stream: Stream) -> None:
        name, chat = str(stream.key), stream.chat
        text = [*chat.prompt, *chat.text[: stream.known]]
        self._streams[name] = stream
        self._new.append((name, text, chat.most - stream.known, self._eos, stream.salt))
        self._turn()

    def _turn(self) -> None:
        if self._stepping or not self._streams:
            return
        self._stepping = True
        made, seconds = self._process.step(self._new, ())
        self._new = []
        self.clock.after(seconds, lambda: self._stepped(made, seconds))

    def _stepped(self, made: Sequence[Any], seconds: float) -> None:
        self.meters.server += seconds
        self.meters.steps += 1
        for name, tokens, ended in made:
            if (stream := self._streams.get(name)) is None:
                continue
            self.meters.verifies += 1
            self.meters.accepted += len(tokens) - 1
            self._committed(stream, tokens)
            if ended:
                del self._streams[name]
                self._committed(stream, ())
        self._stepping = False
        self._turn()
