"""Events with many log-probabilities come in several steps, each of which is encoded in a moment."""

from __future__ import annotations

from edgedraft.wire import TokenLogprobs
from gateway.output.events import LOGPROBS_PER_STEP, ChoiceFinished, OutputEvent, ReasoningDelta, TextDelta, in_steps


def text(tokens: int, with_logprobs: bool = True) -> TextDelta:
    logprobs = tuple(TokenLogprobs(-float(n), [], []) for n in range(tokens)) if with_logprobs else ()
    return TextDelta(0, "a" * tokens, tuple(range(tokens)), logprobs)


END = ChoiceFinished(0, "stop")


def test_a_long_text_comes_in_steps_and_whole() -> None:
    long = text(10 * LOGPROBS_PER_STEP + 3)
    steps = list(in_steps([ReasoningDelta(0, "why"), long, END]))
    events = [event for step in steps for event in step]
    parts = [event for event in events if isinstance(event, TextDelta)]
    assert [events[0], events[-1]] == [ReasoningDelta(0, "why"), END]
    assert [part.text for part in parts] == [long.text] + [""] * 10
    assert tuple(token for part in parts for token in part.tokens) == long.tokens
    assert tuple(entry for part in parts for entry in part.logprobs) == long.logprobs
    for step in steps:
        assert sum(len(event.logprobs) for event in step if isinstance(event, TextDelta)) <= LOGPROBS_PER_STEP


def test_short_ones_and_those_without_stay_as_they_are() -> None:
    for events in ([text(LOGPROBS_PER_STEP), END], [text(5), END], [text(5000, with_logprobs=False), END]):
        given: list[OutputEvent] = list(events)
        assert list(in_steps(given)) == [given]
    assert list(in_steps([])) == []
