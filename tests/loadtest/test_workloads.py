"""The prompts of the benchmarks."""

from __future__ import annotations

from collections import Counter

from loadtest.workloads import mixed_prompts


def test_the_mixed_prompts_alternate_between_six_kinds() -> None:
    prompts = mixed_prompts()
    assert set(Counter(prompt.kind for prompt in prompts).values()) == {4}
    assert len({prompt.kind for prompt in prompts[:6]}) == 6
    assert len({prompt.text for prompt in prompts}) == 24
