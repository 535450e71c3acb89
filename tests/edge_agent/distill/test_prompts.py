"""Prompts: held-out parts share nothing with training, and a seed repeats them."""

from __future__ import annotations

import json
from pathlib import Path

from edge_agent.distill import topics
from edge_agent.distill.prompts import KINDS, PromptMaker, select_split, written_prompts


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


def test_a_prompt_with_tools_offers_the_function_that_it_calls() -> None:
    maker = PromptMaker(1)
    called = 0
    for prompt in (maker.make("tools") for _ in range(200)):
        system, _, *rest = prompt.messages
        (offered,) = (line for line in system["content"].splitlines() if line.startswith("["))
        functions = {function["name"]: function["parameters"] for function in json.loads(offered)}
        if rest:
            call = json.loads(rest[0]["content"].removeprefix("<tool_call>").removesuffix("</tool_call>"))
            assert set(call["arguments"]) == set(functions[call["name"]])
            assert prompt.messages[-1]["role"] == "user"
            called += 1
    assert 50 < called < 150


def test_sixty_prompts_were_written_by_hand_and_share_no_line_with_the_generator() -> None:
    prompts = written_prompts()
    assert len(prompts) == 60
    assert {prompt.kind for prompt in prompts} == set(KINDS)
    assert all(prompt.messages[-1]["role"] == "user" for prompt in prompts)
    generated = set(Path(topics.__file__).read_text().splitlines())
    written = {line for prompt in prompts for message in prompt.messages for line in message["content"].splitlines()}
    assert not generated & {line for line in written if len(line) > 10}
