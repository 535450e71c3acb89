"""Request parameters become one output format, whose first servable candidate constrains the content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from edgedraft.grammar.service import GrammarService
from gateway.http.errors import ApiError
from gateway.prompt.output_format import OutputFormat, first_compiling, schema_candidates
from gateway.prompt.output_grammar import choice_fragment, json_fragment, regex_fragment
from gateway.prompt.structured_output import NamedSchema, ResponseFormat, StructuredOutputParameters

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.fixture
def grammars() -> Iterator[GrammarService]:
    grammars = GrammarService()
    yield grammars
    grammars.close()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, None),
        ({"structured_outputs": {}}, None),
        ({"guided_json": SCHEMA}, OutputFormat((json_fragment(SCHEMA),), "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, OutputFormat((json_fragment(SCHEMA),), "guided_json")),
        ({"guided_choice": ["a"]}, OutputFormat((choice_fragment(["a"]),), "guided_choice")),
        (
            {"structured_outputs": {"regex": "a+"}},
            OutputFormat((regex_fragment("a+"),), "structured_outputs.regex"),
        ),
    ],
)
def test_vllms_parameters(parameters: dict[str, Any], expected: OutputFormat | None) -> None:
    assert StructuredOutputParameters.model_validate(parameters).output_format() == expected


def test_strict_schemas_have_one_candidate() -> None:
    for strict, count in ((True, 1), (False, 2), (None, 2)):
        named = NamedSchema.model_validate({"name": "a", "schema": SCHEMA, "strict": strict})
        response_format = ResponseFormat(type="json_schema", json_schema=named)
        output_format = StructuredOutputParameters().output_format(response_format)
        assert output_format
        assert len(output_format.candidates) == count


def test_two_formats_exclude_each_other() -> None:
    parameters = StructuredOutputParameters(guided_regex="a", guided_choice=["a"])
    with pytest.raises(ApiError, match="exclude each other"):
        parameters.output_format()


async def test_the_first_candidate_that_compiles_is_taken(grammars: GrammarService) -> None:
    schema = {**SCHEMA, "not": {}}
    strict, lenient = schema_candidates(schema, strict=False)
    assert await first_compiling((strict, lenient), grammars) == (lenient, "")
    assert await OutputFormat((strict, lenient), "x").first_servable(grammars) == lenient
    fragment, error = await first_compiling((strict,), grammars)
    assert fragment is None
    assert error
    with pytest.raises(ApiError) as raised:
        await OutputFormat((strict,), "response_format").first_servable(grammars)
    assert (raised.value.status, raised.value.body["error"]["param"]) == (400, "response_format")
