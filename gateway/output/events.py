"""The events of a choice's output, as OpenAI's streaming APIs distinguish them. The endpoints encode them.

Source: https://platform.openai.com/docs/api-reference/responses-streaming and .../chat-streaming
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgedraft.wire import FinishReason, TokenLogprobs

ChoiceFinishReason = FinishReason | Literal["tool_calls"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of a choice's answer, and the ids of the tokens that end in it, with `logprobs` for each if requested.

    `text` is empty only when tokens without text are reported for their log-probabilities.
    """

    choice: int
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of a choice's reasoning before the answer; never empty."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A choice's tool call number `index`, counted from 0: a call of the function `name` with the id `id`."""

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """More of the arguments of tool call `index`, a part of a JSON text; never empty."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """The last event of a choice."""

    choice: int
    reason: ChoiceFinishReason


OutputDelta = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta
OutputEvent = OutputDelta | ChoiceFinished
