"""One choice: where stop strings end it, which tokens an event carries, and what its end by length adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.model.reasoning import ReasoningFormat
from gateway.model.served_model import ServedModel
from gateway.output.choice_output import ChoiceOutput
from gateway.output.events import ChoiceFinished, OutputEvent, ReasoningDelta, TextDelta
from gateway.output.parser import OutputSyntax
from tests.support import toy_model
from tests.support.toy_model import EOS

# The toy model's <|im_start|> stands in for a marker that is a special token, as <think> is for some models.
MARKER = toy_model.TOKENIZER.encode(toy_model.START, add_special_tokens=False).ids[0]


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel.from_card(toy_model.card())


def ids(text: str) -> list[int]:
    return toy_model.TOKENIZER.encode(text, add_special_tokens=False).ids


def logprobs(tokens: Sequence[int]) -> list[TokenLogprobs]:
    """One entry per token, from which the token can be told."""
    return [TokenLogprobs(-float(token)) for token in tokens]


def feed(output: ChoiceOutput, tokens: Sequence[int], finish: FinishReason | None = None) -> list[OutputEvent]:
    return output.feed(tokens, logprobs(tokens), finish)


def text_of(events: Sequence[OutputEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def tokens_of(events: Sequence[OutputEvent]) -> list[int]:
    """The tokens of the events, each with its own log-probability."""
    tokens: list[int] = []
    for event in events:
        if isinstance(event, TextDelta):
            assert list(event.logprobs) == logprobs(event.tokens)
            tokens += event.tokens
    return tokens


def test_a_stop_string_across_commits_ends_the_choice(model: ServedModel) -> None:
    output = ChoiceOutput(3, model, stops=["END"])
    events = feed(output, ids("one E")) + feed(output, ids("N"))
    assert text_of(events) == "one "
    last = feed(output, ids("D two"), finish="length")
    assert last == [ChoiceFinished(3, "stop")]
    assert (output.finish_reason, output.tokens) == ("stop", ids("one END"))
    assert tokens_of(events) == ids("one ")


def test_a_beginning_of_a_stop_string_is_sent_with_its_tokens_once_it_cannot_be_one(model: ServedModel) -> None:
    output = ChoiceOutput(0, model, stops=["END"])
    assert feed(output, ids("E")) == []
    events = feed(output, ids("x"))
    assert (text_of(events), tokens_of(events)) == ("Ex", ids("Ex"))


def test_the_end_by_length_flushes_what_was_held_back(model: ServedModel) -> None:
    output = ChoiceOutput(0, model, stops=["END"])
    assert text_of(feed(output, ids("a E"))) == "a "
    events = feed(output, ids("N"), finish="length")
    assert (text_of(events), tokens_of(events)) == ("EN", ids("EN"))
    assert events[-1] == ChoiceFinished(0, "length")


@pytest.mark.parametrize("split", [False, True])
def test_eos_is_in_no_event_but_counts(model: ServedModel, split: bool) -> None:
    output = ChoiceOutput(0, model, eos=[EOS])
    if split:
        events = feed(output, ids("hi")) + feed(output, [EOS], finish="stop")
    else:
        events = feed(output, [*ids("hi"), EOS], finish="stop")
    assert (text_of(events), tokens_of(events)) == ("hi", ids("hi"))
    assert output.tokens == [*ids("hi"), EOS]
    assert events[-1] == ChoiceFinished(0, "stop")


def test_a_special_token_that_is_not_eos_is_reported_for_its_logprobs(model: ServedModel) -> None:
    output = ChoiceOutput(0, model, eos=[EOS])
    events = feed(output, ids("a")) + feed(output, [MARKER], finish="length")
    assert (text_of(events), tokens_of(events)) == ("a", [*ids("a"), MARKER])


def test_a_character_split_over_commits_is_sent_complete_with_all_its_tokens(model: ServedModel) -> None:
    output = ChoiceOutput(0, model)
    tokens = ids("é")
    assert len(tokens) == 2
    assert feed(output, tokens[:1]) == []
    events = feed(output, tokens[1:])
    assert (text_of(events), tokens_of(events)) == ("é", tokens)


def test_an_incomplete_last_character_has_tokens_and_no_text(model: ServedModel) -> None:
    output = ChoiceOutput(0, model)
    tokens = ids("aé")[:2]
    events = feed(output, tokens, finish="length")
    assert (text_of(events), tokens_of(events)) == ("a", tokens)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("stops", [[], ["STOP"], ["汉"]])
def test_events_do_not_depend_on_the_commits(model: ServedModel, size: int, stops: list[str]) -> None:
    output, tokens = ChoiceOutput(0, model, [EOS], stops), [*ids("né 😀 STO 汉 STOP x"), EOS]
    events: list[OutputEvent] = []
    for start in range(0, len(tokens), size):
        final = start + size >= len(tokens)
        events += feed(output, tokens[start : start + size], "stop" if final else None)
        if output.finish_reason:
            break
    expected = "né 😀 STO 汉 STOP x"
    for stop in stops:
        expected = expected[: expected.index(stop)]
    assert (text_of(events), tokens_of(events)) == (expected, ids(expected))
    assert sum(isinstance(event, ChoiceFinished) for event in events) == 1


def test_without_logprobs_deltas_have_none_and_no_delta_is_empty(model: ServedModel) -> None:
    output = ChoiceOutput(0, model)
    events = output.feed(ids("a")) + output.feed([MARKER], finish="length")
    assert events == [TextDelta(0, "a", tuple(ids("a"))), ChoiceFinished(0, "length")]


def test_a_marker_that_is_a_special_token_ends_reasoning(model: ServedModel) -> None:
    marked = replace(model, marker_tokens={toy_model.START: MARKER})
    syntax = OutputSyntax(ReasoningFormat("<open>", toy_model.START, opened_by_prompt=True), None)
    output = ChoiceOutput(0, marked, [EOS], syntax=syntax)
    events = feed(output, ids("why")) + feed(output, [MARKER, *ids("so")]) + feed(output, [EOS], finish="stop")
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "why"
    assert text_of(events) == "so"
    assert output.reasoning_tokens == len("why") + 1
