"""Output parsed into reasoning, content and tool calls, however it is split; no part of a marker is in the content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.reasoning import ReasoningFormat
from gateway.model.tool_call_format import HERMES, LLAMA, MISTRAL, MISTRAL_LIST, ToolCallFormat
from gateway.output.events import ReasoningDelta, ToolCallArgumentsDelta, ToolCallStarted
from gateway.output.parser import Content, OutputParser

THINKING = ReasoningFormat("<think>", "</think>")
BEGUN = ReasoningFormat("<think>", "</think>", opened_by_prompt=True)
CALL = '<tool_call>\n{"name": "get", "arguments": {"a": "}\\"<tool_call>", "b": [{}]}}\n</tool_call>'
CALLED = ("call", 0, "get"), ("arguments", 0, '{"a": "}\\"<tool_call>", "b": [{}]}')

# text, thinking, format, parts
CASES: list[tuple[str, ReasoningFormat | None, ToolCallFormat | None, list[tuple[str | int, ...]]]] = [
    ("hello <b> {}\n", None, None, [("content", "hello <b> {}\n")]),
    ("hello <tool", None, HERMES, [("content", "hello <tool")]),
    ("a  \n", None, HERMES, [("content", "a  \n")]),
    (f"Let me see.\n{CALL}", None, HERMES, [("content", "Let me see."), *CALLED]),
    (
        f"{CALL}\n{CALL}\n",
        None,
        HERMES,
        [*CALLED, ("call", 1, "get"), ("arguments", 1, CALLED[1][2])],
    ),
    (f"{CALL} so\n", None, HERMES, [*CALLED, ("content", "so\n")]),
    ('[TOOL_CALLS]get[ARGS]{"a":1}', None, MISTRAL, [("call", 0, "get"), ("arguments", 0, '{"a":1}')]),
    (
        "[TOOL_CALLS]get[ARGS]{}[TOOL_CALLS]put[ARGS]{}",
        None,
        MISTRAL,
        [("call", 0, "get"), ("arguments", 0, "{}"), ("call", 1, "put"), ("arguments", 1, "{}")],
    ),
    (
        'ok [TOOL_CALLS][{"name": "get", "arguments": {}}, {"name": "put", "arguments": {"x": {}}}]',
        None,
        MISTRAL_LIST,
        [
            ("content", "ok"),
            ("call", 0, "get"),
            ("arguments", 0, "{}"),
            ("call", 1, "put"),
            ("arguments", 1, '{"x": {}}'),
        ],
    ),
    ('{"name": "get", "parameters": {"q": 1}}', None, LLAMA, [("call", 0, "get"), ("arguments", 0, '{"q": 1}')]),
    ('{"name": "no", "parameters": {}}', None, LLAMA, [("content", '{"name": "no", "parameters": {}}')]),
    ('So: {"name": "get", "parameters": {}}', None, LLAMA, [("content", 'So: {"name": "get", "parameters": {}}')]),
    ("<think>\nhm </think\n</think>\n\nyes", THINKING, None, [("thought", "hm </think"), ("content", "yes")]),
    ("hm\n</think>\nyes ", BEGUN, None, [("thought", "hm"), ("content", "yes ")]),
    ("\n no <think> here", THINKING, None, [("content", "\n no <think> here")]),
    ("<think></think>yes", THINKING, None, [("content", "yes")]),
    ("hm, endless ", BEGUN, HERMES, [("thought", "hm, endless ")]),
    (f"<think>{CALL}</think>\n{CALL}", THINKING, HERMES, [("thought", CALL), *CALLED]),
    # What no grammar lets pass is content, as it stands.
    ("a\n<tool_call>b</tool_call>", None, HERMES, [("content", "a\n<tool_call>b</tool_call>")]),
    (
        '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
        None,
        HERMES,
        [("content", '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>')],
    ),
    (f"<tool_call>{CALL}", None, HERMES, [("content", "<tool_call>"), *CALLED]),
    ('<tool_call>\n{"name": "get", "arguments": 5}', None, HERMES, [("call", 0, "get"), ("content", "5}")]),
]
IDS = [f"{index}" for index in range(len(CASES))]


def parts(
    pieces: list[str], thinking: ReasoningFormat | None, calls: ToolCallFormat | None, finish: bool = True
) -> list[tuple[str | int, ...]]:
    """What the pieces come to, neighbours of one kind joined."""
    parser = OutputParser(thinking, calls, ("get", "put"))
    joined: list[tuple[str | int, ...]] = []

    def add(*part: str | int) -> None:
        if joined and part[0] != "call" and joined[-1][:-1] == part[:-1]:
            part = (*part[:-1], f"{joined.pop()[-1]}{part[-1]}")
        joined.append(part)

    for part in [part for piece in pieces for part in parser.feed(piece)] + (
        parser.finish(cut=False) if finish else []
    ):
        match part:
            case ReasoningDelta(_, text):
                add("thought", text)
            case Content(_, text):
                add("content", text)
            case ToolCallStarted(_, index, id_, name):
                assert id_
                add("call", index, name)
            case ToolCallArgumentsDelta(_, index, text):
                add("arguments", index, text)
        assert part.name if isinstance(part, ToolCallStarted) else part.text
    return joined


@pytest.mark.parametrize(("text", "thinking", "calls", "expected"), CASES, ids=IDS)
def test_the_parts_are_the_same_wherever_the_text_is_cut(
    text: str, thinking: ReasoningFormat | None, calls: ToolCallFormat | None, expected: list[tuple[str | int, ...]]
) -> None:
    assert parts([text], thinking, calls) == expected
    assert parts(list(text), thinking, calls) == expected
    for cut in range(len(text)):
        assert parts([text[:cut], text[cut:]], thinking, calls) == expected


@pytest.mark.parametrize(("text", "thinking", "calls", "expected"), CASES, ids=IDS)
def test_what_was_said_early_is_never_taken_back(
    text: str, thinking: ReasoningFormat | None, calls: ToolCallFormat | None, expected: list[tuple[str | int, ...]]
) -> None:
    for cut in range(len(text)):
        early = parts([text[:cut]], thinking, calls, finish=False)
        for said, meant in zip(early, expected, strict=False):
            assert said[:-1] == meant[:-1]
            assert str(meant[-1]).startswith(str(said[-1]))


def test_a_call_that_is_cut_off_leaves_no_mark_in_the_content() -> None:
    for cut in range(len("<tool_call>"), len(CALL)):
        texts = [text for kind, *_, text in parts([CALL[:cut]], None, HERMES) if kind == "content"]
        assert not texts, cut


MARKS = ["<think>", "</think>", "<tool_call>", '\n{"name": "', "get", '", "arguments": ', "}\n</tool_call>", "\n", "{"]


@given(
    st.lists(st.sampled_from([*MARKS, "}", '"', "\\", "a", "[TOOL_CALLS]", "[ARGS]", ", "]) | st.text(max_size=3)),
    st.sampled_from([None, THINKING, BEGUN]),
    st.sampled_from([None, HERMES, MISTRAL, MISTRAL_LIST, LLAMA]),
    st.data(),
)
def test_any_output_in_any_pieces_gives_the_same_parts(
    fragments: list[str], thinking: ReasoningFormat | None, calls: ToolCallFormat | None, data: st.DataObject
) -> None:
    text = "".join(fragments)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parts(pieces, thinking, calls) == parts([text], thinking, calls)
