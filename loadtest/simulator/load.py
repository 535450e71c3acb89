"""Load on a simulated system: a closed loop, Poisson arrivals, or every chat once in order.

The measured window opens when every initial stream is running, so that neither an empty nor a draining system is
measured. In a closed loop the initial streams begin at random positions of their texts, as in a steady state. Every
committed token is compared with the recorded text.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

from loadtest.simulator.clock import Clock
from loadtest.simulator.measurement import Measurement, Meters
from loadtest.simulator.playback import NEW_PROMPT
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.target import SESSION_IDS


@dataclass
class Stream:
    """A running request. `device` numbers its agent's device; `num_prior` output tokens existed when it began."""

    key: int
    chat: RecordedChat
    device: int
    num_prior: int
    started_at: float
    salt: str
    num_generated: int = 0
    first_token_at: float | None = None
    last_token_at: float = 0.0


OnTokens = Callable[[Stream, Sequence[int]], None]


class System(Protocol):
    """A way to serve. It reports every commit, and the end of a stream as a commit of no tokens."""

    clock: Clock

    @property
    def meters(self) -> Meters: ...

    def subscribe(self, on_tokens: OnTokens) -> None:
        """Sets the callback for commits."""
        ...

    def submit(self, stream: Stream) -> None: ...

    def stop(self) -> None:
        """Closes all streams, so that an engine shared with other systems is empty again."""
        ...


@dataclass(frozen=True)
class Load:
    """What is offered, and how much is measured.

    Closed loop: `concurrency` streams at all times. Open loop: Poisson arrivals at `arrival_rate` per second, of which
    `max_concurrency` run at once and the rest wait (0: no limit). Measured are `tokens` tokens after `warmup_tokens`.
    `once`: a closed loop that runs every chat once, in order, from its beginning, all of it measured.
    """

    concurrency: int = 0
    arrival_rate: float = 0.0
    tokens: int = 400
    warmup_tokens: int = 100
    max_concurrency: int = 0
    once: bool = False


def run(system: System, chats: Sequence[RecordedChat], load: Load, seed: int) -> Measurement:
    """Runs one load. Raises AssertionError if a text differs from the recorded one."""
    generator = _LoadGenerator(system, chats, load, seed)
    system.subscribe(generator.on_tokens)
    generator.start()
    try:
        system.clock.run(lambda: generator.done)
    finally:
        system.stop()
    assert generator.done, "no event was left before the end of the load"
    return generator.measurement


class _LoadGenerator:
    """Submits streams, checks their tokens and measures the window."""

    def __init__(self, system: System, chats: Sequence[RecordedChat], load: Load, seed: int) -> None:
        self.measurement = Measurement()
        self.done = False
        self._clock, self._system, self._chats, self._load = system.clock, system, chats, load
        self._rng = random.Random(seed)
        self._queue: list[RecordedChat] = list(reversed(chats)) if load.once else []
        self._running: dict[int, Stream] = {}
        self._waiting: deque[float] = deque()  # arrival times
        self._initial: set[int] = set()  # streams without a token yet, of those that began the run
        self._tokens = 0
        self._window_began: float | None = None
        self._meters_before = Meters()

    def start(self) -> None:
        if self._load.once:
            self._open_window()
        if self._load.arrival_rate:
            self._clock.call_later(self._rng.expovariate(self._load.arrival_rate), self._arrive)
        streams = [self._new_stream(device, initial=not self._load.once) for device in range(self._load.concurrency)]
        self._initial = {stream.key for stream in streams}
        for stream in streams:
            self._system.submit(stream)

    def on_tokens(self, stream: Stream, tokens: Sequence[int]) -> None:
        """Tokens of one stream; none is its end."""
        if self.done or stream.key not in self._running:
            return
        if not tokens:
            self._end(stream)
            return
        at = stream.num_prior + stream.num_generated
        right = stream.chat.text[at : at + len(tokens)]
        assert tuple(tokens) == right, f"chat {stream.chat.number} differs at {at}"
        now = self._clock.now
        if self._window_began is not None:
            self._measure(stream, len(tokens), now)
        stream.num_generated += len(tokens)
        stream.last_token_at = now
        if stream.first_token_at is None:
            stream.first_token_at = now
            self._initial.discard(stream.key)
        self._tokens += len(tokens)
        if self._window_began is None and not self._initial and self._tokens >= self._load.warmup_tokens:
            self._open_window()

    def _open_window(self) -> None:
        self._window_began, self._meters_before = self._clock.now, replace(self._system.meters)

    def _measure(self, stream: Stream, tokens: int, now: float) -> None:
        found = self.measurement
        found.tokens += tokens
        if stream.first_token_at is not None:
            found.inter_token.append(((now - stream.last_token_at) / tokens, tokens))
        elif not stream.num_prior:
            found.first_tokens.append(now - stream.started_at)
        total, verifies = found.kinds.get(stream.chat.kind, (0, 0))
        found.kinds[stream.chat.kind] = total + tokens, verifies + 1
        if found.tokens >= self._load.tokens and not self._load.once:
            self._finish()

    def _finish(self) -> None:
        assert self._window_began is not None
        self.measurement.seconds = self._clock.now - self._window_began
        self.measurement.meters = self._system.meters.since(self._meters_before)
        self.done = True

    def _end(self, stream: Stream) -> None:
        assert stream.num_prior + stream.num_generated == len(stream.chat.text), (
            f"chat {stream.chat.number} ended early"
        )
        del self._running[stream.key]
        self._initial.discard(stream.key)
        if self._load.once and not self._queue:
            if not self._running:
                self._finish()
        elif self._load.concurrency:
            self._system.submit(self._new_stream(stream.device))
        elif self._waiting:
            self._start_waiting()

    def _arrive(self) -> None:
        if self.done:
            return
        self._waiting.append(self._clock.now)
        if not self._load.max_concurrency or len(self._running) < self._load.max_concurrency:
            self._start_waiting()
        self._clock.call_later(self._rng.expovariate(self._load.arrival_rate), self._arrive)

    def _start_waiting(self) -> None:
        taken = {stream.device for stream in self._running.values()}
        stream = self._new_stream(next(device for device in range(len(taken) + 1) if device not in taken))
        stream.started_at = self._waiting.popleft()
        self._system.submit(stream)

    def _new_stream(self, device: int, initial: bool = False) -> Stream:
        if not self._queue:
            self._queue = self._rng.sample(self._chats, len(self._chats))
        chat = self._queue.pop()
        key = next(SESSION_IDS)
        num_prior = self._rng.randrange(len(chat.text)) if initial else 0
        # Prompts from before the window are in the prefix cache; only prompts that arrive in the window are new work.
        salt = f"old {chat.number}" if initial else f"{NEW_PROMPT} {key}"
        stream = Stream(key, chat, device, num_prior, self._clock.now, salt)
        self._running[key] = stream
        return stream


def tokens_for(concurrency: int) -> int:
    """How many tokens to measure, so that the few requests that begin in the window do not decide the figures."""
    if concurrency <= 2:
        return 240
    return max(600, 6 * concurrency)


def trial_load(concurrency: int) -> Load:
    """A closed loop that is long enough to tell plans apart."""
    return Load(concurrency, tokens=max(600, 3 * concurrency), warmup_tokens=warmup_for(concurrency))


def warmup_for(concurrency: int) -> int:
    return max(50, ceil(1.2 * concurrency))
