"""Request parameters become one output format; none of them is dropped in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.http.errors import ApiError
from gateway.prompt.output_format import ANY_OBJECT, OutputFormat
from gateway.prompt.output_grammar import choice_fragment, regex_fragment
from gateway.prompt.structured_output import NamedSchema, ResponseFormat, StructuredOutputParameters

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, None),
        ({"structured_outputs": {}}, None),
        ({"guided_json": SCHEMA}, OutputFormat(SCHEMA, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, OutputFormat(SCHEMA, "guided_json")),
        ({"guided_json_object": True}, OutputFormat(ANY_OBJECT, "guided_json_object")),
        ({"guided_choice": ["a"]}, OutputFormat(choice_fragment(["a"]), "guided_choice")),
        ({"structured_outputs": {"regex": "a+"}}, OutputFormat(regex_fragment("a+"), "structured_outputs.regex")),
        ({"json_schema": SCHEMA}, OutputFormat(SCHEMA, "json_schema")),
        ({"regex": "a+"}, OutputFormat(regex_fragment("a+"), "regex")),
    ],
)
def test_parameters_of_other_servers(parameters: dict[str, Any], expected: OutputFormat | None) -> None:
    assert StructuredOutputParameters.model_validate(parameters).output_format() == expected


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, OutputFormat(ANY_OBJECT, "response_format")),
        ({"type": "json_object", "schema": SCHEMA}, OutputFormat(SCHEMA, "response_format", strict=False)),
        ({"type": "json_schema", "schema": SCHEMA, "strict": True}, OutputFormat(SCHEMA, "response_format")),
    ],
)
def test_where_others_have_the_schema(response_format: dict[str, Any], expected: OutputFormat | None) -> None:
    parsed = ResponseFormat.model_validate(response_format)
    assert StructuredOutputParameters().output_format(parsed) == expected


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"structured_outputs": {"structural_tag": {"type": "structural_tag"}}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"disable_any_whitespace": True}}, "structured_outputs.disable_any_whitespace"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"ebnf": "root ::= x"}, "ebnf"),
        ({"structural_tag": "{}"}, "structural_tag"),
    ],
)
def test_a_constraint_that_would_be_dropped_is_refused(parameters: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        StructuredOutputParameters.model_validate(parameters).output_format()
    assert (raised.value.status, raised.value.body["error"]["param"]) == (400, param)


def test_a_schema_beside_plain_text_is_refused() -> None:
    given = ResponseFormat.model_validate({"type": "text", "schema": SCHEMA})
    with pytest.raises(ApiError, match="would drop"):
        StructuredOutputParameters().output_format(given)


def test_strict_is_passed_on() -> None:
    for strict in (True, False, None):
        named = NamedSchema.model_validate({"name": "a", "schema": SCHEMA, "strict": strict})
        response_format = ResponseFormat(type="json_schema", json_schema=named)
        expected = OutputFormat(SCHEMA, "response_format", strict=bool(strict))
        assert StructuredOutputParameters().output_format(response_format) == expected


def test_two_formats_exclude_each_other() -> None:
    parameters = StructuredOutputParameters(guided_regex="a", guided_choice=["a"])
    with pytest.raises(ApiError, match="exclude each other"):
        parameters.output_format()
