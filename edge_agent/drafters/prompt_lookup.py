"""Prompt lookup as a drafter: it copies from a session's own text (edgedraft/proposers/prompt_lookup.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import DraftRequest, Proposal
from edgedraft.proposers.prompt_lookup import NgramIndex


class PromptLookupDrafter:
    """The drafter over the sessions' own texts."""

    def __init__(self) -> None:
        self._texts: dict[int, NgramIndex] = {}

    def open(self, session: int) -> None:
        self._texts[session] = NgramIndex()

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._proposal(point) for point in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._texts.pop(session, None)

    def _proposal(self, point: DraftRequest) -> Proposal:
        known = self._texts[point.session]
        known.update(point.context, point.num_committed, prompt_length=len(point.context) - point.output_index)
        tokens, probabilities = known.propose(point.context)
        return Proposal(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(probabilities))
