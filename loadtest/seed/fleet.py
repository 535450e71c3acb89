"""Who asks for what and when, and what they saw of it: closed loop (so many streams, always) or Poisson arrivals.

A run counts what happens in its window, which opens once every first stream is under way, so that neither an empty nor
an ending service is in the figures. In a closed loop the first streams begin anywhere in their texts, as if they had
been running for long. Every committed token is held to the recorded text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Protocol, Self

from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.target import KEYS


@dataclass
class Stream:
    """One request under way. `slot` is its desktop's number; `known` output tokens were there when it began."""

    key: int
    chat: Chat
    slot: int
    known: int
    opened: float
    salt: str
    said: int = 0
    first: float | None = None
    last: float = 0.0


@dataclass
class Meters:
    """Running totals: seconds of server and desktops, steps, verifies of sessions, nodes, bytes of messages."""

    server: float = 0.0
    desktops: float = 0.0
    verifies: int = 0
    nodes: int = 0
    accepted: int = 0
    up: int = 0
    down: int = 0
    steps: int = 0

    def since(self, other: Self) -> Self:
        return type(self)(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))


class System(Protocol):
    """One way to serve. It calls what `serve` was given for every commit: the stream and the tokens; none ends it."""

    clock: Clock

    @property
    def meters(self) -> Meters: ...

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None: ...

    def begin(self, stream: Stream) -> None: ...

    def stop(self) -> None:
        """Close all streams, so that the engine, which others use too, is empty again."""
        ...


@dataclass
class Window:
    """What was measured: seconds, tokens, and of the streams the gaps between tokens and the times to the first."""

    seconds: float = 0.0
    tokens: int = 0
    gaps: list[tuple[float, int]] = field(default_factory=list)  # seconds a token, and how many tokens
    firsts: list[float] = field(default_factory=list)
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)  # tokens and verifies, by kind of chat
    meters: Meters = field(default_factory=Meters)

    def gap(self, share: float) -> float:
        """The time a token that `share` of all tokens do not exceed, in seconds."""
        total, passed = sum(count for _, count in self.gaps), 0
        for seconds, count in sorted(self.gaps):
            passed += count
            if passed >= share * total:
                return seconds
        return 0.0

    @property
    def mean_gap(self) -> float:
        return sum(seconds * count for seconds, count in self.gaps) / max(1, sum(count for _, count in self.gaps))

    @property
    def first(self) -> float | None:
        """The median time to the first token, None where nothing began in the window."""
        return sorted(self.firsts)[len(self.firsts) // 2] if self.firsts else None


@dataclass(frozen=True)
class Load:
    """So many `sessions` always, or `rate` arrivals a second; measured over `tokens` after `warm` of them."""

    sessions: int = 0
    rate: float = 0.0
    tokens: int = 400
    warm: int = 100


def run(system: System, chats: Sequence[Chat], load: Load, seed: int) -> Window:
    """One run. Raises AssertionError if a text differs from the recorded one."""
    fleet = _Fleet(system, chats, load, seed)
    system.serve(fleet.committed)
    fleet.start()
    try:
        system.clock.run(lambda: fleet.done)
    finally:
        system.stop()
    assert fleet.done, "everything came to rest before the end"
    return fleet.window


class _Fleet:
    def __init__(self, system: System, chats: Sequence[Chat], load: Load, seed: int) -> None:
        self.window = Window()
        self.done = False
        self._clock, self._system, self._chats, self._load = system.clock, system, chats, load
        self._dice = random.Random(seed)
        self._order: list[Chat] = []
        self._running: dict[int, Stream] = {}
        self._first: set[int] = set()
        self._tokens = 0
        self._began: float | None = None
        self._before = Meters()

    def start(self) -> None:
        if self._load.rate:
            self._clock.after(self._dice.expovariate(self._load.rate), self._arrive)
        streams = [self._open(slot, running=True) for slot in range(self._load.sessions)]
        self._first = {stream.key for stream in streams}
        for stream in streams:
            self._system.begin(stream)

    def committed(self, stream: Stream, tokens: Sequence[int]) -> None:
        """Tokens of one stream, or its end."""
        if self.done or stream.key not in self._running:
            return
        if not tokens:
            self._end(stream)
            return
        at = stream.known + stream.said
        assert tuple(tokens) == stream.chat.text[at : at + len(tokens)], f"chat {stream.chat.number} differs at {at}"
        now = self._clock.now
        if self._began is not None:
            self._count(stream, len(tokens), now)
        stream.said += len(tokens)
        stream.last = now
        if stream.first is None:
            stream.first = now
            self._first.discard(stream.key)
        self._tokens += len(tokens)
        if self._began is None and not self._first and self._tokens >= self._load.warm:
            self._began, self._before = now, replace(self._system.meters)

    def _count(self, stream: Stream, tokens: int, now: float) -> None:
        window = self.window
        window.tokens += tokens
        if stream.first is None:
            if not stream.known:
                window.firsts.append(now - stream.opened)
        else:
            window.gaps.append(((now - stream.last) / tokens, tokens))
        said, verifies = window.kinds.get(stream.chat.kind, (0, 0))
        window.kinds[stream.chat.kind] = said + tokens, verifies + 1
        if window.tokens >= self._load.tokens:
            assert self._began is not None
            window.seconds = now - self._began
            window.meters = self._system.meters.since(self._before)
            self.done = True

    def _end(self, stream: Stream) -> None:
        assert stream.known + stream.said == len(stream.chat.text), f"chat {stream.chat.number} ended early"
        del self._running[stream.key]
        self._first.discard(stream.key)
        if self._load.sessions:
            self._system.begin(self._open(stream.slot))

    def _arrive(self) -> None:
        if not self.done:
            taken = {stream.slot for stream in self._running.values()}
            self._system.begin(self._open(next(slot for slot in range(len(taken) + 1) if slot not in taken)))
            self._clock.after(self._dice.expovariate(self._load.rate), self._arrive)

    def _open(self, slot: int, running: bool = False) -> Stream:
        if not self._order:
            self._order = self._dice.sample(self._chats, len(self._chats))
        chat = self._order.pop()
        key = next(KEYS)
        known = self._dice.randrange(len(chat.text)) if running else 0
        # What ran before the window is found computed: only prompts that come in the window are new work.
        salt = f"old {chat.number}" if running else f"new {key}"
        stream = Stream(key, chat, slot, known, self._clock.now, salt)
        self._running[key] = stream
        return stream


def tokens_for(sessions: int) -> int:
    """How many tokens to measure over: enough that requests which happen to begin in the window do not decide."""
    if sessions <= 2:
        return 240
    return max(600, 6 * sessions)


def warm_for(sessions: int) -> int:
    return max(50, ceil(1.2 * sessions))
