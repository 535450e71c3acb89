"""A draft model of given acceptance: it knows the recorded texts, and its probabilities are exact.

At each position it proposes up to five tokens. The first one's probability is drawn from a beta distribution with the
given mean, which is U-shaped, as draft models are mostly sure or mostly not; the others share what is left. The
target's token is then placed among them with exactly these probabilities. Proposals depend on seed and position alone,
so all systems that are compared draft with the same ones.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal, merge
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from loadtest.simulator.draft_model import PendingForward, Position, position_of
from loadtest.simulator.recorded_chats import RecordedChat

CONCENTRATION = 1.6  # of the beta distribution: the sum of its two parameters
LOWEST, HIGHEST = 0.02, 0.995  # probabilities of the most likely token
SIBLING_SHARES = (0.42, 0.38, 0.3, 0.25)  # of the probability that the tokens before leave
MIN_SIBLING = 0.03  # less likely tokens are not proposed
WRONG_TOKENS = 1 << 30, 1 << 31  # the range of proposed tokens that are not the target's; no text has them


class OracleDraftModel:
    """loadtest.simulator.draft_model.DraftModel for `chats`, whose tokens are below WRONG_TOKENS. Not thread-safe."""

    def __init__(self, chats: Sequence[RecordedChat], acceptance: float, seed: int = 0) -> None:
        """`acceptance` is the mean probability of the most likely token, between 0 and 1."""
        self._texts = {chat.number: chat.text for chat in chats}
        self._alpha, self._beta = CONCENTRATION * acceptance, CONCENTRATION * (1 - acceptance)
        self._seed = seed
        self._known: dict[Position, Proposal] = {}

    def start_forward(
        self, chat: RecordedChat, request: DraftRequest, lookup: PromptLookupDrafter | None, model: bool = True
    ) -> PendingForward:
        [looked_up] = lookup.propose([request]) if lookup else [NO_PROPOSAL]
        return PendingForward(position_of(chat, request) if model else None, looked_up)

    def finish_forward(self, pending: PendingForward) -> Proposal:
        if pending.position is None:
            return pending.lookup
        proposal = self.propose(pending.position)
        return merge([pending.lookup, proposal]) if pending.lookup.tokens else proposal

    def propose(self, position: Position) -> Proposal:
        """The proposal at this position, always the same."""
        if (proposal := self._known.get(position)) is None:
            self._known[position] = proposal = self._draw(*position)
        return proposal

    def _draw(self, number: int, right: int, wrong: Sequence[int]) -> Proposal:
        key = struct.pack(f"<{3 + len(wrong)}q", self._seed, number, right, *wrong)
        rng = random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
        most_likely = min(HIGHEST, max(LOWEST, rng.betavariate(self._alpha, self._beta)))
        probabilities, left = [most_likely], 1 - most_likely
        for share in SIBLING_SHARES:
            if share * left < MIN_SIBLING:
                break
            probabilities.append(share * left)
            left -= probabilities[-1]
        drawn, hit = rng.random(), 0
        while hit < len(probabilities) and drawn >= probabilities[hit]:
            drawn -= probabilities[hit]
            hit += 1
        tokens = [rng.randrange(*WRONG_TOKENS) for _ in probabilities]
        text = self._texts[number]
        if hit < len(tokens) and not wrong and right < len(text):
            tokens[hit] = text[right]
        return Proposal(tuple(tokens), (-1,) * len(tokens), tuple(probabilities))
