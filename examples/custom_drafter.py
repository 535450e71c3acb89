"""An edge agent with a drafter of its own: it proposes what followed the last two tokens most often so far.

    python examples/custom_drafter.py http://127.0.0.1:8000 ed-...

It learns from the sessions that it drafts for. A drafter can be wrong as often as it likes: the verifier keeps only the
tokens that the target chooses, so a draft changes speed and never text.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress

from edge_agent.attach.address import agent_url
from edge_agent.attach.attachment import Agent, stay_attached
from edge_agent.attach.observer import LineObserver
from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafting.stats import StatsCollector
from edgedraft.wire import PROTOCOL, Hello

ORDER = 2  # tokens that the next one is looked up by
LENGTH = 4  # tokens of a proposal at most


class FollowerDrafter:
    """edge_agent.drafters.interface.Drafter over counts of what followed each pair of tokens."""

    def __init__(self) -> None:
        self._followers: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self._learned: dict[int, int] = {}  # session -> how many tokens of its text are counted

    def open(self, session: int) -> None:
        self._learned[session] = 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._propose(request) for request in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._learned.pop(session, None)

    def _propose(self, request: DraftRequest) -> Proposal:
        self._learn(request.session, request.context[: request.num_committed])
        path: list[int] = []
        probabilities: list[float] = []
        while len(path) < LENGTH:
            followers = self._followers.get(tuple([*request.context[-ORDER:], *path][-ORDER:]))
            if not followers:
                break
            [(token, count)] = followers.most_common(1)
            path.append(token)
            probabilities.append(count / (followers.total() + 1))
        if not path:
            return NO_PROPOSAL
        return Proposal(tuple(path), tuple(range(-1, len(path) - 1)), tuple(probabilities))

    def _learn(self, session: int, committed: Sequence[int]) -> None:
        for i in range(max(ORDER, self._learned.get(session, 0)), len(committed)):
            self._followers[tuple(committed[i - ORDER : i])][committed[i]] += 1
        self._learned[session] = len(committed)


def main(url: str, key: str) -> None:
    drafter = FollowerDrafter()
    agent = Agent(
        url=agent_url(url),
        key=key,
        # No tokenizer's fingerprint: this drafter repeats token ids, whatever they mean.
        hello=Hello(PROTOCOL, name="custom drafter", drafter="followers of two tokens", max_sessions=4),
        new_drafter=lambda vocab_size, tokenizer: drafter,
        stats=StatsCollector(),
        observer=LineObserver(url),
    )
    with suppress(KeyboardInterrupt):  # Ctrl-C detaches
        asyncio.run(stay_attached(agent))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: custom_drafter.py URL KEY")
    main(*sys.argv[1:])
