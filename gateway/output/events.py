"""The events of a choice's output, as OpenAI's streaming APIs distinguish them. The endpoints encode them.

Source: https://platform.openai.com/docs/api-reference/responses-streaming and .../chat-streaming
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

LOGPROBS_PER_STEP = 32  # tokens; with 20 alternatives each, encoding them takes a millisecond


def in_steps(events: Sequence[OutputEvent]) -> Iterator[list[OutputEvent]]:
    """The events in parts, of which each has a bounded number of log-probabilities to encode.

    A text that was held back may have thousands of tokens. Its first part has all of the text.
    """
    step: list[OutputEvent] = []
    logprobs = 0
    for event in events:
        for part in _parts(event) if isinstance(event, TextDelta) and event.logprobs else (event,):
            more = len(part.logprobs) if isinstance(part, TextDelta) else 0
            if step and logprobs + more > LOGPROBS_PER_STEP:
                yield step
                step, logprobs = [], 0
            step.append(part)
            logprobs += more
    if step:
        yield step


def _parts(delta: TextDelta) -> Iterator[TextDelta]:
    for start in range(0, len(delta.logprobs), LOGPROBS_PER_STEP):
        end = start + LOGPROBS_PER_STEP
        text = "" if start else delta.text
        yield TextDelta(delta.choice, text, delta.tokens[start:end], delta.logprobs[start:end])
