"""Which models have reasoning, and whether a prompt has opened it already."""

from __future__ import annotations

import pytest

from gateway.model.reasoning import ReasoningFormat, detect_reasoning_markers, reasoning_after

THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("template", "added_tokens", "markers"),
    [
        ("{{ messages }}", (), None),
        ("{{ m.content.split('</think>')[-1] }}", (), THINK),
        ("{{ '<think>' }}", (), None),
        ("", ("<think>", "</think>"), THINK),
        ("", ("</think>",), None),
        ("[/THINK]", (), ("[THINK]", "[/THINK]")),
        ("", ("<seed:think>", "</seed:think>"), ("<seed:think>", "</seed:think>")),
    ],
)
def test_markers_are_found_in_template_or_vocabulary(
    template: str, added_tokens: tuple[str, ...], markers: tuple[str, str] | None
) -> None:
    assert detect_reasoning_markers(template, added_tokens) == markers


def test_a_prompt_may_have_opened_or_closed_the_reasoning() -> None:
    assert reasoning_after("assistant\n", None) is None
    assert reasoning_after("assistant\n", THINK) == ReasoningFormat(*THINK)
    assert reasoning_after("assistant\n<think>\n", THINK) == ReasoningFormat(*THINK, opened_by_prompt=True)
    assert reasoning_after("assistant\n<think>\n\n</think>\n\n", THINK) is None
