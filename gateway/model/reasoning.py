"""Models that think before they answer: the marks around the thinking, and whether a prompt has begun it already.

Marks are told by the model's chat template and vocabulary. Reading them out of text is part_reader.py's.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

_MARKER_PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The output may begin with open THOUGHT close; where the prompt ends in `open`, it has `begun`."""

    start_marker: str
    end_marker: str
    opened_by_prompt: bool = False


def detect_reasoning_markers(template: str, added_tokens: Container[str]) -> tuple[str, str] | None:
    """The marks of a model that thinks: in its template, or both of them tokens of their own."""
    for opened, closed in _MARKER_PAIRS:
        if closed in template or (opened in added_tokens and closed in added_tokens):
            return opened, closed
    return None


def reasoning_after(prompt: str, marks: tuple[str, str] | None) -> ReasoningFormat | None:
    """What the output of this prompt may begin with. A prompt that ends in a closed thought wants no further one."""
    if marks is None:
        return None
    opened, closed = marks
    end = prompt.rstrip()
    return None if end.endswith(closed) else ReasoningFormat(opened, closed, opened_by_prompt=end.endswith(opened))
