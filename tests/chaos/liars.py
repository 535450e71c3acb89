"""Agents that speak the protocol and lie: random guesses, guesses made to be wrong, and drafts said before."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from websockets.exceptions import WebSocketException

from edgedraft.wire import Draft
from tests.support.scripted_agent import Drafting, ScriptedAgent

STAY = 4.0  # seconds until it comes again under another name, so that no verifier can know it by then
AT_ONCE = 8  # nodes in one draft
BROKEN = 1006  # a close code: nobody said goodbye
SURE = 0  # a confidence: the drafter has no doubt


@dataclass
class Liar(ScriptedAgent, ABC):
    """One life of one: it fits any model, and may guess what it likes."""

    fingerprint: str = ""
    rng: random.Random = field(default_factory=random.Random)

    @property
    def close_code(self) -> int | None:
        """What the gateway closed it with, if it did."""
        return self._socket.close_code if self._socket and self._socket.close_code != BROKEN else None

    async def gone(self) -> None:
        """Leave nothing open, however it ended."""
        if self._socket:
            await self.die()

    @abstractmethod
    def guess(self, session: Drafting, offset: int) -> int:
        """The token so many places after the text's end, as this one tells it."""

    async def _draft(self, session: Drafting) -> None:
        tree = session.tree
        room = min(session.window, AT_ONCE) - len(tree)
        if room <= 0:
            return
        live = {node.id for node in tree.live_nodes()}
        first = tree.next_id
        tokens, parents = [], []
        for offset in range(room):
            # Mostly a chain from where the text ends, now and then a branch of it.
            chain = first + offset - 1 if offset else tree.cursor
            parents.append(chain if self.rng.random() < 0.8 else self.rng.choice([tree.cursor, *live]))
            tokens.append(self.guess(session, offset))
        confidence = bytes([SURE] * room)
        tree.add(tree.epoch, tree.at, first, tokens, parents, confidence)
        self.drafted += room
        await self.send_draft(Draft(session.opened.session, tree.epoch, tree.at, first, tokens, parents, confidence))

    async def send_draft(self, draft: Draft) -> None:
        await self.say([draft])


class RandomLiar(Liar):
    """Any token at all."""

    def guess(self, session: Drafting, offset: int) -> int:
        assert self.welcome
        return self.rng.randrange(self.welcome.vocab_size)


class WrongLiar(Liar):
    """The end of the text, or a token that was not chosen just now: never right but by accident, and never in doubt."""

    def guess(self, session: Drafting, offset: int) -> int:
        if session.opened.eos and self.rng.random() < 0.5:
            return session.opened.eos[0]
        last = session.tree.committed[-1] if session.tree.committed else 0
        return max(0, last - 1)


@dataclass
class ReplayingLiar(Liar):
    """What another session was told, as this one's text; and drafts a second time, in their session or another."""

    said: list[Draft] = field(default_factory=list)

    def guess(self, session: Drafting, offset: int) -> int:
        told = self.committed[self.rng.choice(list(self.committed))]
        place = len(session.tree.committed) + offset
        return told[place] if place < len(told) else self.rng.randrange(1000)

    async def send_draft(self, draft: Draft) -> None:
        await super().send_draft(draft)
        self.said.append(draft)
        if self.rng.random() < 0.1:
            again = self.rng.choice(self.said)
            self.drafted += len(again.tokens)
            await self.say([again])  # the gateway may well end the connection for it


@dataclass
class Lies:
    """What the liars did: nodes drafted, by kind; sessions they were given; connections closed on them for it."""

    drafted: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    closed: Counter[int] = field(default_factory=Counter)

    def count(self, liar: Liar) -> None:
        self.drafted[type(liar).__name__] += liar.drafted
        self.sessions += len(liar.opened)
        if code := liar.close_code:
            self.closed[code] += 1


async def lie(kind: type[Liar], url: Callable[[], str], key: str, rng: random.Random, lies: Lies) -> None:
    """Attach again and again until cancelled."""
    for life in count():
        liar = kind(url(), key, name=f"{kind.__name__}-{life}", rng=rng)
        try:
            with suppress(OSError, TimeoutError, WebSocketException):
                async with liar, asyncio.timeout(STAY):
                    await liar.connection.wait_closed()
        finally:
            lies.count(liar)
            await liar.gone()
        await asyncio.sleep(0.2)


LIARS = (RandomLiar, WrongLiar, ReplayingLiar)
