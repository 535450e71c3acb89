"""Reasoning models: the markers around their reasoning, and whether the prompt already ends in the start marker.

The markers are detected in the model's chat template and vocabulary. gateway/output/parser.py finds them in the output.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

_MARKER_PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """An output may begin with `start_marker` REASONING `end_marker`.

    With `opened_by_prompt` the prompt ends in the start marker, and the output begins inside the reasoning.
    """

    start_marker: str
    end_marker: str
    opened_by_prompt: bool = False


def detect_reasoning_markers(template: str, added_tokens: Container[str]) -> tuple[str, str] | None:
    """Returns the start and end markers of a reasoning model, None for other models.

    The end marker is in its template, or both markers are added tokens.
    """
    for start, end in _MARKER_PAIRS:
        if end in template or (start in added_tokens and end in added_tokens):
            return start, end
    return None


def reasoning_after(prompt: str, markers: tuple[str, str] | None) -> ReasoningFormat | None:
    """Returns the reasoning that may follow the prompt, None for none: its end marker may be the prompt's end."""
    if markers is None:
        return None
    start, end = markers
    prompt = prompt.rstrip()
    return None if prompt.endswith(end) else ReasoningFormat(start, end, opened_by_prompt=prompt.endswith(start))
