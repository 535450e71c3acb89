"""Prompts: held-out parts share nothing with training, and a seed repeats them."""

from __future__ import annotations

from edge_agent.distill.prompts import KINDS, PromptMaker, select_split


def test_held_out_prompts_share_nothing_with_training() -> None:
    training, held_out = PromptMaker(0), PromptMaker(0, held_out=True)
    for kind in KINDS:
        seen = {training.make(kind).messages[-1]["content"] for _ in range(400)}
        kept = {held_out.make(kind).messages[-1]["content"] for _ in range(100)}
        assert not seen & kept
        assert len(seen) > 200
    items = tuple(str(i) for i in range(50))
    assert not set(select_split(items, True)) & set(select_split(items, False))
    assert set(select_split(items, True)) | set(select_split(items, False)) == set(items)


def test_prompts_repeat_with_their_seed() -> None:
    assert [PromptMaker(3).make(kind) for kind in KINDS] == [PromptMaker(3).make(kind) for kind in KINDS]
