"""Prompts for benchmarks and tests, written for this project and under its licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One request: its kind and the user message.

    Kinds of chats: chat, summary, code, maths, translation, retrieval. Kinds of an agent's work: edit, tool, question.
    """

    kind: str
    text: str


def mixed_prompts() -> list[Prompt]:
    """24 prompts, four of each kind, alternating between kinds."""
    lines = (Path(__file__).parent / "mixed.jsonl").read_text().splitlines()
    return [Prompt(**json.loads(line)) for line in lines]


def agent_prompts() -> list[Prompt]:
    """20 prompts of an agent's work, four on each of five long contexts: files to edit, tools' results to read."""
    contexts = json.loads((Path(__file__).parent / "agent.json").read_text())
    return [
        Prompt(request["kind"], f"{context['context']}\n\n{request['text']}")
        for context in contexts
        for request in context["requests"]
    ]


def prompt_tokens(tokenizer: Any, message: str) -> list[int]:
    """The token ids of a chat with one user message, rendered by the model's own template."""
    messages = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)
