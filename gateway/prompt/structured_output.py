"""The request parameters that constrain the content: OpenAI's response_format, vLLM's structured outputs.

Each of them comes to one OutputFormat. Other servers' spellings that mean the same are accepted; a constraint that
would be dropped is refused by its name.

Sources: OpenAI API reference, "Create chat completion": response_format; vLLM documentation, "Structured Outputs".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from edgedraft.grammar.limits import MAX_ERROR_CHARACTERS
from gateway.http.bodies.validation import Schema
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import (
    MAX_FORMAT_CHOICES,
    MAX_FUNCTION_NAME,
    MAX_GRAMMAR_CHARACTERS,
    MAX_PATTERN_CHARACTERS,
    MAX_SCHEMA_CHARACTERS,
)
from gateway.prompt.output_format import ANY_OBJECT, OutputFormat
from gateway.prompt.output_grammar import (
    GrammarFragment,
    choice_fragment,
    client_grammar_fragment,
    regex_fragment,
)

JsonSchema = dict[str, Any] | Annotated[str, Field(max_length=MAX_SCHEMA_CHARACTERS)]
Pattern = Annotated[str, Field(max_length=MAX_PATTERN_CHARACTERS)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_FORMAT_CHOICES)]
ClientGrammar = Annotated[str, Field(max_length=MAX_GRAMMAR_CHARACTERS)]


class NamedSchema(Schema):
    """OpenAI's json_schema. With `strict`, a schema that cannot be followed exactly is an error."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=MAX_FUNCTION_NAME)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Schema):
    """OpenAI's response_format. `schema` is where llama.cpp and others have it, with either of the JSON types."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class StructuredOutputs(Schema):
    """vLLM's newer parameter; a request sets one of its fields."""

    json_: Annotated[JsonSchema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: ClientGrammar | None = None
    structural_tag: Any = None
    whitespace_pattern: Any = None
    disable_any_whitespace: bool | None = None


class StructuredOutputParameters(Schema):
    """vLLM's parameters, as part of a request."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: ClientGrammar | None = None
    guided_json_object: bool | None = None
    guided_whitespace_pattern: Any = None
    json_schema: JsonSchema | None = None  # llama.cpp and SGLang, as the next two
    grammar: ClientGrammar | None = None
    regex: Pattern | None = None  # SGLang, as the next two
    ebnf: Any = None
    structural_tag: Any = None

    def output_format(self, response_format: ResponseFormat | None = None) -> OutputFormat | None:
        """Returns what the content has to be, None for plain text. Raises ApiError 400."""
        values: dict[str, tuple[str, Any]] = {
            "guided_json": ("json", self.guided_json),
            "guided_regex": ("regex", self.guided_regex),
            "guided_choice": ("choice", self.guided_choice),
            "guided_grammar": ("grammar", self.guided_grammar),
            "guided_json_object": ("json", ANY_OBJECT if self.guided_json_object else None),
            "json_schema": ("json", self.json_schema),
            "grammar": ("grammar", self.grammar),
            "regex": ("regex", self.regex),
        }
        self._refuse_dropped()
        if outputs := self.structured_outputs:
            values |= {
                "structured_outputs.json": ("json", outputs.json_),
                "structured_outputs.json_object": ("json", ANY_OBJECT if outputs.json_object else None),
                "structured_outputs.regex": ("regex", outputs.regex),
                "structured_outputs.choice": ("choice", outputs.choice),
                "structured_outputs.grammar": ("grammar", outputs.grammar),
            }
        formats = [
            OutputFormat(_parse_content(kind, value, param), param)
            for param, (kind, value) in values.items()
            if value is not None
        ]
        if response_format and (parsed := _parse_response_format(response_format)):
            formats.append(parsed)
        if len(formats) > 1:
            names = " and ".join(format_.param for format_ in formats)
            raise ApiError(400, f"{names} exclude each other.", param=formats[1].param, code="invalid_value")
        return formats[0] if formats else None

    def _refuse_dropped(self) -> None:
        dropped = {
            "guided_whitespace_pattern": self.guided_whitespace_pattern,
            "ebnf": self.ebnf,
            "structural_tag": self.structural_tag,
        }
        if outputs := self.structured_outputs:
            dropped |= {
                "structured_outputs.structural_tag": outputs.structural_tag,
                "structured_outputs.whitespace_pattern": outputs.whitespace_pattern,
                "structured_outputs.disable_any_whitespace": outputs.disable_any_whitespace or None,
            }
        for param, value in dropped.items():
            if value is not None:
                raise ApiError(400, f"{param} is not supported.", param=param, code="unsupported_parameter")


def _parse_response_format(response_format: ResponseFormat) -> OutputFormat | None:
    param = "response_format"
    named, schema = response_format.json_schema, response_format.schema_
    if response_format.type == "text":
        if named or schema is not None:
            message = "response_format has a schema, which its type 'text' would drop."
            raise ApiError(400, message, param=f"{param}.type", code="invalid_value")
        return None
    if schema is not None:
        if named:
            message = "response_format.schema and response_format.json_schema exclude each other."
            raise ApiError(400, message, param=f"{param}.schema", code="invalid_value")
        return OutputFormat(schema, param, bool(response_format.strict))
    if response_format.type == "json_object" and named is None:
        return OutputFormat(ANY_OBJECT, param)
    if named is None:
        raise ApiError(400, "response_format.json_schema is missing.", param=f"{param}.json_schema")
    if named.schema_ is None:
        raise ApiError(400, "response_format.json_schema.schema is missing.", param=f"{param}.json_schema.schema")
    return OutputFormat(named.schema_, param, bool(named.strict))


def _parse_content(kind: str, value: Any, param: str) -> GrammarFragment | dict[str, Any]:
    try:
        match kind:
            case "json":
                return _parse_schema(value, param)
            case "regex":
                return regex_fragment(value)
            case "choice":
                return choice_fragment(value)
            case _:
                return client_grammar_fragment(value)
    except ValueError as error:
        raise ApiError(
            400, f"{param}: {str(error)[:MAX_ERROR_CHARACTERS]}", param=param, code="invalid_value"
        ) from None


def _parse_schema(value: JsonSchema, param: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = from_json(value)
    if not isinstance(value, dict):
        raise ApiError(400, f"{param} is no JSON schema.", param=param, code="invalid_value")
    return value
