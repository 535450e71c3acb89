"""Prompts to measure and test with, written for this project and under its licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One chat request: its kind (chat, summary, code, maths, translation, retrieval) and the user's words."""

    kind: str
    text: str


def mixed() -> list[Prompt]:
    """24 prompts, four of each kind, the kinds in turn."""
    lines = (Path(__file__).parent / "mixed.jsonl").read_text().splitlines()
    return [Prompt(**json.loads(line)) for line in lines]


def prompt_tokens(tokenizer: Any, words: str) -> list[int]:
    """What a user's words become as the prompt of a chat, by the model's own template."""
    asked = [{"role": "user", "content": words}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)
