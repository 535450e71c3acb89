"""The request parameters that constrain the content: OpenAI's response_format and vLLM's structured outputs.

Each of them comes to one OutputFormat.

Sources: OpenAI API reference, "Create chat completion": response_format; vLLM documentation, "Structured Outputs".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from gateway.http.errors import ApiError
from gateway.http.validation import Schema
from gateway.prompt.output_format import ANY_OBJECT, OutputFormat, schema_candidates
from gateway.prompt.output_grammar import (
    GrammarFragment,
    choice_fragment,
    client_grammar_fragment,
    json_fragment,
    regex_fragment,
)

MAX_CHOICES = 1024
MAX_PATTERN_CHARACTERS = 1 << 14
MAX_CLIENT_GRAMMAR_CHARACTERS = 1 << 15

JsonSchema = dict[str, Any] | str
Pattern = Annotated[str, Field(max_length=MAX_PATTERN_CHARACTERS)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
ClientGrammar = Annotated[str, Field(max_length=MAX_CLIENT_GRAMMAR_CHARACTERS)]


class NamedSchema(Schema):
    """OpenAI's json_schema. With `strict`, a schema that cannot be followed exactly is an error."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Schema):
    """OpenAI's response_format."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Schema):
    """vLLM's newer parameter; a request sets one of its fields."""

    json_: Annotated[JsonSchema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: ClientGrammar | None = None


class StructuredOutputParameters(Schema):
    """vLLM's parameters, as part of a request."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: ClientGrammar | None = None

    def output_format(self, response_format: ResponseFormat | None = None) -> OutputFormat | None:
        """Returns what the content has to be, None for plain text. Raises ApiError 400."""
        values: dict[str, tuple[str, Any]] = {
            "guided_json": ("json", self.guided_json),
            "guided_regex": ("regex", self.guided_regex),
            "guided_choice": ("choice", self.guided_choice),
            "guided_grammar": ("grammar", self.guided_grammar),
        }
        if outputs := self.structured_outputs:
            values |= {
                "structured_outputs.json": ("json", outputs.json_),
                "structured_outputs.json_object": ("json", ANY_OBJECT if outputs.json_object else None),
                "structured_outputs.regex": ("regex", outputs.regex),
                "structured_outputs.choice": ("choice", outputs.choice),
                "structured_outputs.grammar": ("grammar", outputs.grammar),
            }
        formats = [
            OutputFormat((_parse_fragment(kind, value, param),), param)
            for param, (kind, value) in values.items()
            if value is not None
        ]
        if response_format and (parsed := _parse_response_format(response_format)):
            formats.append(parsed)
        if len(formats) > 1:
            names = " and ".join(format_.param for format_ in formats)
            raise ApiError(400, f"{names} exclude each other.", param=formats[1].param, code="invalid_value")
        return formats[0] if formats else None


def _parse_response_format(response_format: ResponseFormat) -> OutputFormat | None:
    param = "response_format"
    if response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return OutputFormat((json_fragment(ANY_OBJECT),), param)
    named = response_format.json_schema
    if named is None:
        raise ApiError(400, "response_format.json_schema is missing.", param=f"{param}.json_schema")
    if named.schema_ is None:
        raise ApiError(400, "response_format.json_schema.schema is missing.", param=f"{param}.json_schema.schema")
    return OutputFormat(schema_candidates(named.schema_, named.strict), param)


def _parse_fragment(kind: str, value: Any, param: str) -> GrammarFragment:
    try:
        match kind:
            case "json":
                return json_fragment(_parse_schema(value, param))
            case "regex":
                return regex_fragment(value)
            case "choice":
                return choice_fragment(value)
            case _:
                return client_grammar_fragment(value)
    except ValueError as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="invalid_value") from None


def _parse_schema(value: JsonSchema, param: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = from_json(value)
    if not isinstance(value, dict):
        raise ApiError(400, f"{param} is no JSON schema.", param=param, code="invalid_value")
    return value
