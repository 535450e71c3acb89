"""`python -m tests.fuzz --frames N --seed S`: sends adversarial frames to every decoder and every state machine.

Of N frames 97 % go to the decoders; the others are spread over a gateway's endpoint for agents, a verifier's endpoint
for gateways, an agent's drafting loop and a session with its link to a verifier, all in process (parts.py), and over
WebSocket frames, HTTP requests and JSON bodies on real sockets (websocket.py, http.py, json_bodies.py).
Messages are made by frames.py. A decoder may raise WireError and nothing else; a state machine may close a link and
must keep serving others, which is checked with complete chats.
Memory is this process's RSS, from after a twentieth of a part to its end. Exits with 1 if an exception escaped or a
chat was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from edgedraft import wire
from edgedraft.observability.logs import configure_logging
from edgedraft.wire import WireError
from tests.fuzz.endpoints import fuzz_agent_endpoint, fuzz_drafting_loop, fuzz_verifier_endpoint, fuzz_verifier_link
from tests.fuzz.frames import DECODERS, Frames
from tests.fuzz.http import fuzz_http
from tests.fuzz.json_bodies import fuzz_json
from tests.fuzz.websocket import fuzz_websocket

KEPT_ESCAPES = 20
SHARES = {
    "decoders": 0.959,
    "agent endpoint": 0.0005,
    "verifier endpoint": 0.0062,
    "drafting loop": 0.023,
    "verifier link": 0.0003,
    "websocket": 0.005,
    "http": 0.005,
    "json": 0.001,
}


@dataclass
class Tally:
    """One part's counts. `accepted` frames were decoded, `rejected` ones raised WireError or closed the link."""

    part: str
    frames: int = 0
    accepted: int = 0
    rejected: int = 0
    links: int = 0
    chats: int = 0
    seconds: float = 0.0
    grown_mib: float = 0.0
    escapes: list[str] = field(default_factory=list)
    escaped: int = 0
    closes: Counter[int] = field(default_factory=Counter)
    _rss: int = 0

    def escape(self, error: BaseException | str, frame: bytes = b"") -> None:
        """Counts an unexpected exception."""
        self.escaped += 1
        if len(self.escapes) < KEPT_ESCAPES:
            self.escapes.append(f"{error!r} {frame[:200].hex()}")

    def settled(self) -> None:
        """Memory growth is counted from here on."""
        self._rss = _rss()

    def done(self, began: float) -> None:
        self.seconds = round(time.monotonic() - began, 1)
        self.grown_mib = round((_rss() - self._rss) / (1 << 20), 1)


def decoders(stats: Tally, frames: int, rng: Random) -> None:
    """Sends frames of every direction in turn to their own decoder, and every 64th to another one."""
    supplies = [(decoder, Frames(direction, rng)) for direction, decoder in DECODERS.items()]
    others = list(DECODERS.values())
    for n in range(frames):
        if n == frames // 20:
            stats.settled()
        decoder, supply = supplies[n % len(supplies)]
        if n % 64 == 0:
            decoder = rng.choice(others)
        frame = supply.next()
        stats.frames += 1
        try:
            messages = decoder(frame)
            again = wire.encode_frame(messages)
            if len(messages) <= wire.MAX_MESSAGES:
                decoder(again)
        except WireError:
            stats.rejected += 1
        except Exception as error:
            stats.escape(error, frame)
        else:
            stats.accepted += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz")
    parser.add_argument("--frames", type=int, default=100_000, help="in total")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=list(SHARES), help="only this one")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    given = parser.parse_args()
    configure_logging("error")
    tallies = run(given.frames, given.seed, given.part)
    for stats in tallies:
        print(
            f"{stats.part:16} {stats.frames:>10,} frames {stats.accepted:>9,} accepted {stats.rejected:>9,} rejected "
            f"{stats.links:>7,} links {stats.chats:>4} chats {stats.escaped:>3} escaped {stats.grown_mib:>6} MiB "
            f"{stats.seconds:>7} s  {dict(stats.closes.most_common())}"
        )
        for escape in stats.escapes:
            print(f"    {escape}")
    if given.json:
        shown = [asdict(replace(stats, closes=dict(stats.closes))) for stats in tallies]  # asdict breaks a Counter
        rows = [{name: value for name, value in row.items() if not name.startswith("_")} for row in shown]
        given.json.write_text(json.dumps({"frames": given.frames, "seed": given.seed, "parts": rows}, indent=2) + "\n")
    sys.exit(1 if any(stats.escaped for stats in tallies) else 0)


def run(frames: int, seed: int, only: str | None = None) -> list[Tally]:
    """Returns each part's counts; `frames` are divided between the parts that run."""
    parts: dict[str, Callable[[Tally, int, Random], Any]] = {
        "decoders": decoders,
        "agent endpoint": lambda stats, count, rng: _in_loop(fuzz_agent_endpoint, stats, count, rng),
        "verifier endpoint": lambda stats, count, rng: _in_loop(fuzz_verifier_endpoint, stats, count, rng),
        "drafting loop": fuzz_drafting_loop,
        "verifier link": lambda stats, count, rng: _in_loop(fuzz_verifier_link, stats, count, rng),
        "websocket": lambda stats, count, rng: _in_loop(fuzz_websocket, stats, count, rng),
        "http": lambda stats, count, rng: _in_loop(fuzz_http, stats, count, rng),
        "json": lambda stats, count, rng: _in_loop(fuzz_json, stats, count, rng),
    }
    tallies = []
    for name, part in parts.items():
        if only not in (None, name):
            continue
        stats, began = Tally(name), time.monotonic()
        stats.settled()
        part(stats, frames if only else round(frames * SHARES[name]), Random(f"{seed} {name}"))
        gc.collect()
        stats.done(began)
        tallies.append(stats)
        print(f"{name}: {stats.frames:,} frames, {stats.escaped} escaped", file=sys.stderr, flush=True)
    return tallies


def _in_loop(part: Callable[..., Any], stats: Tally, count: int, rng: Random) -> None:
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory()))
        asyncio.run(part(stats, count, rng, folder))


def _rss() -> int:
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
