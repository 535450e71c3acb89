"""The scores of `bench draft`."""

from __future__ import annotations

from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from loadtest.benchmarks.draft import AnsweredPrompt, score
from loadtest.workloads.trace import GREEDY


def test_a_score_counts_tokens_verifies_and_nodes() -> None:
    repeated = [1, 2, 3, 4, 5, 6, 7, 8] * 4
    chats = [
        AnsweredPrompt("code", repeated[:16], GREEDY, repeated[16:]),
        AnsweredPrompt("chat", [1, 2], GREEDY, [9, 8]),
    ]
    found = score(PromptLookupDrafter(), chats)
    assert found["all"].tokens == 18
    assert (found["chat"].tokens, found["chat"].verifies, found["chat"].nodes) == (2, 2, 0)
    assert found["code"].verifies < 8
    assert found["code"].accepted == found["code"].tokens - found["code"].verifies
    assert found["all"].nodes == found["code"].nodes >= found["code"].accepted
