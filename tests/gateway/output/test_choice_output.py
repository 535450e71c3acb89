"""One choice: where stop strings end it, which tokens an event carries, and what its end by length adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.model.reasoning import ReasoningFormat
from gateway.model.served_model import ServedModel
from gateway.model.tool_call_format import HERMES, LLAMA, MISTRAL, MISTRAL_LIST, ToolCallFormat
from gateway.output.choice_output import ChoiceOutput
from gateway.output.events import (
    ChoiceFinished,
    OutputEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
)
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


THINKING = ReasoningFormat("<think>", "</think>")
FORMATS = [HERMES, MISTRAL, MISTRAL_LIST, LLAMA]


def written(form: ToolCallFormat, *arguments: str) -> str:
    """Calls of the function `get`, as a model writes them."""
    calls = [f"get{form.after_name}{text}{form.closing}" for text in arguments]
    return form.opening + form.following.join(calls) + form.end


def read(
    model: ServedModel,
    text: str,
    syntax: OutputSyntax,
    stops: Sequence[str] = (),
    finish: FinishReason = "stop",
    size: int = 3,
) -> tuple[ChoiceOutput, list[OutputEvent]]:
    """The events of `text`, a commit for every `size` tokens of it, which end with `finish`."""
    output, tokens = ChoiceOutput(0, model, [EOS], stops, syntax), ids(text)
    if finish == "stop":
        tokens.append(EOS)
    events: list[OutputEvent] = []
    for start in range(0, len(tokens), size):
        events += feed(output, tokens[start : start + size], finish if start + size >= len(tokens) else None)
        if output.finish_reason:
            break
    return output, events


def arguments_of(events: Sequence[OutputEvent]) -> list[str]:
    arguments = ["" for event in events if isinstance(event, ToolCallStarted)]
    for event in events:
        if isinstance(event, ToolCallArgumentsDelta):
            arguments[event.index] += event.text
    return arguments


def thoughts_of(events: Sequence[OutputEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stop", ["}", "get", '"', "<", "[", "\n", "name", ">", "]"])
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_stop_string_in_thoughts_markers_and_calls_does_not_count(
    model: ServedModel, form: ToolCallFormat, stop: str, size: int
) -> None:
    thought = '\n"get" } name > ]\n'
    arguments = ['{"a": "}\\n<]"}', '{"b": [{}]}'][: 2 if form.following else 1]
    text = f"<think>{thought}</think>\n" + written(form, *arguments)
    output, events = read(model, text, OutputSyntax(THINKING, form, ("get",)), [stop], size=size)
    assert output.finish_reason == "tool_calls"
    assert arguments_of(events) == arguments
    assert thoughts_of(events) == thought.strip()
    assert (text_of(events), tokens_of(events)) == ("", [])
    assert output.tokens == [*ids(text), EOS]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([form for form in FORMATS if form.anywhere]),
    st.text(st.sampled_from("abc <[é\n"), max_size=12),
    st.text(st.sampled_from("abc <[é\n"), min_size=1, max_size=3),
    st.integers(1, 9),
)
def test_a_stop_string_counts_in_what_the_client_sees_and_there_exactly(
    model: ServedModel, form: ToolCallFormat, said: str, stop: str, size: int
) -> None:
    text, syntax = f"<think>{stop}</think>" + said + written(form, '{"a": 1}'), OutputSyntax(THINKING, form, ("get",))
    plain, plain_events = read(model, text, syntax, size=size)
    content = text_of(plain_events)
    output, events = read(model, text, syntax, [stop], size=size)
    assert thoughts_of(events) == thoughts_of(plain_events)
    if stop not in content:
        assert events[-1] == plain_events[-1]
        assert text_of(events) == content
        assert output.tokens == plain.tokens
        return
    shown = content[: content.index(stop)]
    lead = len(text[: text.index("</think>")] + "</think>") + len(said) - len(said.lstrip())
    assert events[-1] == ChoiceFinished(0, "stop")
    assert not arguments_of(events)
    assert (text_of(events), tokens_of(events)) == (shown, ids(shown))
    assert output.tokens == ids(text[: lead + len(shown + stop)]), "the tokens up to the stop string, and no more"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [1, 1000])
def test_no_beginning_of_a_marker_is_text_wherever_the_output_is_cut(
    model: ServedModel, form: ToolCallFormat, size: int
) -> None:
    calls = written(form, *['{"a": "b"}', "{}"][: 2 if form.following else 1])
    said = "So." if form.anywhere else ""
    text = f"<think>why</think>{said}{calls}"
    for cut in range(1, len(text)):
        output, events = read(model, text[:cut], OutputSyntax(THINKING, form, ("get",)), finish="length", size=size)
        assert said.startswith(text_of(events)), text[:cut]
        assert "why".startswith(thoughts_of(events)), text[:cut]
        assert output.finish_reason == "length"
        assert tokens_of(events) == ids(text_of(events))


def test_half_a_marker_that_the_model_ends_with_is_text(model: ServedModel) -> None:
    _, events = read(model, "so <tool", OutputSyntax(None, HERMES, ("get",)), finish="stop")
    assert (text_of(events), tokens_of(events)) == ("so <tool", ids("so <tool"))


def test_a_call_that_ends_within_its_arguments_is_not_told_as_complete(model: ServedModel) -> None:
    text = written(HERMES, '{"a": 1}')
    for cut in range(text.index('{"a"'), text.index('{"a"') + len('{"a": 1')):
        output, events = read(model, text[:cut], OutputSyntax(None, HERMES, ("get",)), finish="stop")
        assert output.finish_reason == "length" or not arguments_of(events), text[:cut]


def test_a_stop_string_within_the_least_number_of_tokens_does_not_count(model: ServedModel) -> None:
    for size in (1, 2, 3, 50):
        output, tokens = ChoiceOutput(0, model, [EOS], ["ab"], min_tokens=4), ids("abxabxab")
        events: list[OutputEvent] = []
        for start in range(0, len(tokens), size):
            events += feed(output, tokens[start : start + size])
            if output.finish_reason:
                break
        assert (text_of(events), tokens_of(events)) == ("abx", ids("abx")), size
        assert output.tokens == ids("abxab")


def test_white_space_without_end_is_not_held_back_for_ever(model: ServedModel) -> None:
    output = ChoiceOutput(0, model, [EOS], ["\n\n"], OutputSyntax(None, HERMES, ("get",)))
    count = 0
    while not output.finish_reason and count < 40:
        feed(output, ids("\n"))
        count += 1
    assert output.finish_reason == "stop"
    assert output.tokens == ids("\n\n")
