"""The prompts of the benchmarks."""

from __future__ import annotations

from collections import Counter

from loadtest.workloads import agent_prompts, mixed_prompts


def test_the_mixed_prompts_alternate_between_six_kinds() -> None:
    prompts = mixed_prompts()
    assert set(Counter(prompt.kind for prompt in prompts).values()) == {4}
    assert len({prompt.kind for prompt in prompts[:6]}) == 6
    assert len({prompt.text for prompt in prompts}) == 24


def test_an_agents_prompts_share_long_contexts() -> None:
    prompts = agent_prompts()
    assert len({prompt.text for prompt in prompts}) == 20
    assert set(Counter(prompt.kind for prompt in prompts)) == {"edit", "tool", "question"}
    contexts = Counter(prompt.text.rsplit("\n\n", 1)[0] for prompt in prompts)
    assert list(contexts.values()) == [4] * 5
    assert min(map(len, contexts)) > 400
