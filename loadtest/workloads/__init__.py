"""Prompts to measure and test with, written for this project and under its licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prompt:
    """One chat request: its kind (chat, summary, code, maths, translation, retrieval) and the user's words."""

    kind: str
    text: str


def mixed() -> list[Prompt]:
    """24 prompts, four of each kind, the kinds in turn."""
    lines = (Path(__file__).parent / "mixed.jsonl").read_text().splitlines()
    return [Prompt(**json.loads(line)) for line in lines]
