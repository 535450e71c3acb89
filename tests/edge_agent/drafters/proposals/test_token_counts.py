"""Token counts per session follow the committed text and a request's drafted path."""

from __future__ import annotations

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edgedraft.wire import Sampling

PENALISED = Sampling(frequency_penalty=1.0)
PROMPT = [1, 2]


def counted(counts: SessionTokenCounts, output: list[int], path: list[int], session: int = 1) -> list[float]:
    """The output counts of tokens 5, 6 and 7 at the end of a drafted path."""
    request = DraftRequest(
        session, [*PROMPT, *output, *path], len(PROMPT) + len(output), len(output) + len(path), PENALISED
    )
    with counts.counts_at(request) as current:
        assert current is not None
        return list(current.counts([5, 6, 7]))


def test_without_penalties_there_are_no_counts() -> None:
    with SessionTokenCounts().counts_at(DraftRequest(1, PROMPT, 2, 0, Sampling())) as counts:
        assert counts is None


def test_the_drafted_path_counts_for_its_own_request_only() -> None:
    counts = SessionTokenCounts()
    assert counted(counts, [5], [6, 6]) == [1, 2, 0]
    assert counted(counts, [5], [7]) == [1, 0, 1]
    assert counted(counts, [5, 5, 7], []) == [2, 0, 1]


def test_sessions_are_apart_and_a_removed_one_starts_empty() -> None:
    counts = SessionTokenCounts()
    assert counted(counts, [5], []) == [1, 0, 0]
    assert counted(counts, [6], [], session=2) == [0, 1, 0]
    counts.remove(1)
    counts.remove(1)
    assert counted(counts, [7], []) == [0, 0, 1]
