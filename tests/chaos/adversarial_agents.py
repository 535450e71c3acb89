"""Adversarial agents that follow the protocol: random drafts, drafts made to be wrong, and replayed drafts."""

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

ATTACHED_SECONDS = 4.0  # then it reconnects under another name, before a verifier's calibration has learnt to ignore it
NODES_PER_DRAFT = 8
ABNORMAL_CLOSE = 1006  # RFC 6455: no close frame was received
CERTAIN = 0  # the confidence byte of probability 1


@dataclass
class AdversarialAgent(ScriptedAgent, ABC):
    """One attachment. The empty fingerprint fits any model."""

    fingerprint: str = ""
    rng: random.Random = field(default_factory=random.Random)

    @property
    def close_code(self) -> int | None:
        """The gateway's close code, if it closed the connection."""
        return self._socket.close_code if self._socket and self._socket.close_code != ABNORMAL_CLOSE else None

    async def leave(self) -> None:
        """Close the socket, however the attachment ended."""
        if self._socket:
            await self.die()

    @abstractmethod
    def next_token(self, session: Drafting, offset: int) -> int:
        """The token to draft at `offset` after the committed text."""

    async def _draft(self, session: Drafting) -> None:
        tree = session.tree
        free = min(session.window, NODES_PER_DRAFT) - len(tree)
        if free <= 0:
            return
        live = {node.id for node in tree.live_nodes()}
        first = tree.next_id
        tokens, parents = [], []
        for offset in range(free):
            # Mostly a chain from the end of the text, sometimes a branch.
            chain = first + offset - 1 if offset else tree.cursor
            parents.append(chain if self.rng.random() < 0.8 else self.rng.choice([tree.cursor, *live]))
            tokens.append(self.next_token(session, offset))
        confidence = bytes([CERTAIN] * free)
        tree.add(tree.epoch, tree.at, first, tokens, parents, confidence)
        self.drafted += free
        await self.send_draft(Draft(session.opened.session, tree.epoch, tree.at, first, tokens, parents, confidence))

    async def send_draft(self, draft: Draft) -> None:
        await self.say([draft])


class RandomAgent(AdversarialAgent):
    """Drafts random tokens."""

    def next_token(self, session: Drafting, offset: int) -> int:
        assert self.welcome
        return self.rng.randrange(self.welcome.vocab_size)


class WrongAgent(AdversarialAgent):
    """Drafts ends of text and tokens that are almost never right, with full confidence."""

    def next_token(self, session: Drafting, offset: int) -> int:
        if session.opened.eos and self.rng.random() < 0.5:
            return session.opened.eos[0]
        last = session.tree.committed[-1] if session.tree.committed else 0
        return max(0, last - 1)


@dataclass
class ReplayingAgent(AdversarialAgent):
    """Drafts the committed tokens of another session, and sends some drafts a second time."""

    sent: list[Draft] = field(default_factory=list)

    def next_token(self, session: Drafting, offset: int) -> int:
        text = self.committed[self.rng.choice(list(self.committed))]
        position = len(session.tree.committed) + offset
        return text[position] if position < len(text) else self.rng.randrange(1000)

    async def send_draft(self, draft: Draft) -> None:
        await super().send_draft(draft)
        self.sent.append(draft)
        if self.rng.random() < 0.1:
            again = self.rng.choice(self.sent)
            self.drafted += len(again.tokens)
            await self.say([again])  # the gateway may close the connection


@dataclass
class AttackStats:
    """Nodes drafted by kind of agent, sessions received, and close codes of the gateway."""

    drafted: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    closed: Counter[int] = field(default_factory=Counter)

    def count(self, agent: AdversarialAgent) -> None:
        self.drafted[type(agent).__name__] += agent.drafted
        self.sessions += len(agent.opened)
        if code := agent.close_code:
            self.closed[code] += 1


async def run_adversary(
    kind: type[AdversarialAgent], url: Callable[[], str], key: str, rng: random.Random, attacks: AttackStats
) -> None:
    """Attach again and again until cancelled."""
    for life in count():
        agent = kind(url(), key, name=f"{kind.__name__}-{life}", rng=rng)
        try:
            with suppress(OSError, TimeoutError, WebSocketException):
                async with agent, asyncio.timeout(ATTACHED_SECONDS):
                    await agent.connection.wait_closed()
        finally:
            attacks.count(agent)
            await agent.leave()
        await asyncio.sleep(0.2)


ADVERSARIES = (RandomAgent, WrongAgent, ReplayingAgent)
