"""Which format of tool calls a chat template teaches, and what the formats require of call ids."""

from __future__ import annotations

import pytest

from gateway.model.tool_call_format import (
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    ToolCallFormat,
    detect_tool_call_format,
)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("<tool_call> name arguments", HERMES),
        ("<tool_call> name", None),
        ("<tool_call><function=name> arguments", None),
        ("<tool_call><arg_key> arguments", None),
        ("[TOOL_CALLS] name [ARGS]", MISTRAL),
        ("[TOOL_CALLS] arguments", MISTRAL_LIST),
        ("<|python_tag|> parameters", LLAMA),
        ("<|python_tag|>", None),
        ("tools", None),
    ],
)
def test_the_format_is_the_templates(template: str, form: ToolCallFormat | None) -> None:
    assert detect_tool_call_format(template) is form


@pytest.mark.parametrize("form", [HERMES, MISTRAL, MISTRAL_LIST, LLAMA])
def test_calls_begin_with_the_marker_and_ids_differ(form: ToolCallFormat) -> None:
    assert form.opening.startswith(form.marker)
    ids = {form.new_id() for _ in range(100)}
    assert len(ids) == 100
    for id_ in ids:
        assert len(id_) == form.id_length if form.id_length else id_.startswith("call_")
