"""`python -m tests.fuzz --frames N --seed S`: hostile frames into every decoder and every state machine, counted.

Of N frames 97 in 100 go into the decoders; the others are spread over a gateway's door for agents, a verifier's door
for gateways, an agent's drafting loop and a session with its link to a verifier, all in process (fuzz_parts.py). What
is made is fuzz_frames.py's. A decoder may raise WireError and nothing else; a state machine may close, and must go on
for others: every so often a chat must come back word for word. Memory is this process's RSS, from after a twentieth of
a part to its end. Exits 1 when something escaped or a chat was not right.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from edgedraft import wire
from edgedraft.observability.logs import configure_logging
from edgedraft.wire import WireError
from tests.fuzz.endpoints import agents_door, drafting_loop, verifiers_door, verifiers_link
from tests.fuzz.frames import WAYS, Frames

KEPT_ESCAPES = 20
SHARES = {
    "decoders": 0.97,
    "agents' door": 0.0005,
    "verifier's door": 0.0062,
    "drafting loop": 0.023,
    "verifier's link": 0.0003,
}


@dataclass
class Tally:
    """One part's account. `taken` frames were read, `refused` raised WireError or closed the link."""

    part: str
    frames: int = 0
    taken: int = 0
    refused: int = 0
    links: int = 0
    chats: int = 0
    seconds: float = 0.0
    grown_mib: float = 0.0
    escapes: list[str] = field(default_factory=list)
    escaped: int = 0
    closes: Counter[int] = field(default_factory=Counter)
    _rss: int = 0

    def escape(self, error: BaseException | str, frame: bytes = b"") -> None:
        """An exception that nobody meant."""
        self.escaped += 1
        if len(self.escapes) < KEPT_ESCAPES:
            self.escapes.append(f"{error!r} {frame[:200].hex()}")

    def settled(self) -> None:
        """Memory is counted from here on."""
        self._rss = _rss()

    def done(self, began: float) -> None:
        self.seconds = round(time.monotonic() - began, 1)
        self.grown_mib = round((_rss() - self._rss) / (1 << 20), 1)


def decoders(tally: Tally, frames: int, dice: Random) -> None:
    """Every way in turn, each frame into its own decoder and now and then into another's."""
    supplies = [(decoder, Frames(way, dice)) for way, decoder in WAYS.items()]
    others = list(WAYS.values())
    for n in range(frames):
        if n == frames // 20:
            tally.settled()
        decoder, supply = supplies[n % len(supplies)]
        if n % 64 == 0:
            decoder = dice.choice(others)
        frame = supply.next()
        tally.frames += 1
        try:
            messages = decoder(frame)
            again = wire.encode_frame(messages)
            if len(messages) <= wire.MAX_MESSAGES:
                decoder(again)
        except WireError:
            tally.refused += 1
        except Exception as error:
            tally.escape(error, frame)
        else:
            tally.taken += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz")
    parser.add_argument("--frames", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=list(SHARES), help="only this one")
    parser.add_argument("--json", type=Path, help="also write the account there")
    given = parser.parse_args()
    configure_logging("error")
    tallies = run(given.frames, given.seed, given.part)
    for tally in tallies:
        print(
            f"{tally.part:16} {tally.frames:>10,} frames {tally.taken:>9,} taken {tally.refused:>9,} refused "
            f"{tally.links:>7,} links {tally.chats:>4} chats {tally.escaped:>3} escaped {tally.grown_mib:>6} MiB "
            f"{tally.seconds:>7} s  {dict(tally.closes.most_common())}"
        )
        for escape in tally.escapes:
            print(f"    {escape}")
    if given.json:
        rows = [{k: v for k, v in asdict(tally).items() if not k.startswith("_")} for tally in tallies]
        given.json.write_text(json.dumps({"frames": given.frames, "seed": given.seed, "parts": rows}, indent=2) + "\n")
    sys.exit(1 if any(tally.escaped for tally in tallies) else 0)


def run(frames: int, seed: int, only: str | None = None) -> list[Tally]:
    """Each part's account; `frames` are shared out between the parts that run."""
    parts: dict[str, Callable[[Tally, int, Random], Any]] = {
        "decoders": decoders,
        "agents' door": lambda tally, count, dice: _in_loop(agents_door, tally, count, dice),
        "verifier's door": lambda tally, count, dice: _in_loop(verifiers_door, tally, count, dice),
        "drafting loop": drafting_loop,
        "verifier's link": lambda tally, count, dice: _in_loop(verifiers_link, tally, count, dice),
    }
    tallies = []
    for name, part in parts.items():
        if only not in (None, name):
            continue
        tally, began = Tally(name), time.monotonic()
        tally.settled()
        part(tally, frames if only else round(frames * SHARES[name]), Random(f"{seed} {name}"))
        gc.collect()
        tally.done(began)
        tallies.append(tally)
        print(f"{name}: {tally.frames:,} frames, {tally.escaped} escaped", file=sys.stderr, flush=True)
    return tallies


def _in_loop(part: Callable[..., Any], tally: Tally, count: int, dice: Random) -> None:
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory()))
        asyncio.run(part(tally, count, dice, folder))


def _rss() -> int:
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
