"""Prompt lookup as a drafter: copies from the session's own text (edgedraft/proposers/prompt_lookup.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import DraftRequest, Proposal
from edgedraft.proposers.prompt_lookup import NgramIndex


class PromptLookupDrafter:
    """One n-gram index per session."""

    def __init__(self) -> None:
        self._texts: dict[int, NgramIndex] = {}

    def open(self, session: int) -> None:
        self._texts[session] = NgramIndex()

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._proposal(request) for request in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._texts.pop(session, None)

    def _proposal(self, request: DraftRequest) -> Proposal:
        known = self._texts[request.session]
        known.update(request.context, request.num_committed, prompt_length=len(request.context) - request.output_index)
        tokens, probabilities = known.propose(request.context)
        return Proposal(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(probabilities))
