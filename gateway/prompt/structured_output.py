"""What a request wants its answer's text to be: OpenAI's response_format, and the extras that vLLM's clients know.

Every way comes to one Body (grammar.py).

Sources: OpenAI API reference, "Create chat completion": response_format; vLLM documentation, "Structured Outputs".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from edgedraft.grammar.service import GrammarService
from gateway.http.errors import ApiError
from gateway.http.validation import Schema
from gateway.prompt.output_grammar import (
    GrammarFragment,
    build_output_grammar,
    choice_fragment,
    client_grammar_fragment,
    json_fragment,
    regex_fragment,
)

MAX_CHOICES = 1024
MAX_PATTERN_CHARACTERS = 1 << 14  # characters
MAX_CLIENT_GRAMMAR_CHARACTERS = 1 << 15  # characters

ANY_OBJECT = {"type": "object"}

JsonSchema = dict[str, Any] | str
Pattern = Annotated[str, Field(max_length=MAX_PATTERN_CHARACTERS)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
ClientGrammar = Annotated[str, Field(max_length=MAX_CLIENT_GRAMMAR_CHARACTERS)]


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """`bodies` are to be tried in order: the first that compiles is what the text has to be.

    More than one there is where a schema is to be followed as far as it can be. `param` is where they came from.
    """

    candidates: tuple[GrammarFragment, ...]
    param: str

    async def first_servable(self, grammars: GrammarService) -> GrammarFragment:
        """The body to hold the text to. Raises ApiError 400 when none compiles."""
        problem = ""
        for body in self.candidates:
            problem = await grammars.find_error(build_output_grammar(body, None, None, {}))
            if not problem:
                return body
        raise ApiError(400, f"Invalid {self.param}: {problem}", param=self.param, code="invalid_value")


class NamedSchema(Schema):
    """OpenAI's json_schema; `strict` asks for a refusal of what cannot be kept to exactly."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Schema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Schema):
    """vLLM's newer parameter; one of its fields at a time."""

    json_: Annotated[JsonSchema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: ClientGrammar | None = None


class StructuredOutputParameters(Schema):
    """The extras, as parameters of a request."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: ClientGrammar | None = None

    def output_format(self, response_format: ResponseFormat | None = None) -> OutputFormat | None:
        """What is asked for, None for plain text. Raises ApiError 400."""
        asked: dict[str, tuple[str, Any]] = {
            "guided_json": ("json", self.guided_json),
            "guided_regex": ("regex", self.guided_regex),
            "guided_choice": ("choice", self.guided_choice),
            "guided_grammar": ("grammar", self.guided_grammar),
        }
        if ways := self.structured_outputs:
            asked |= {
                "structured_outputs.json": ("json", ways.json_),
                "structured_outputs.json_object": ("json", ANY_OBJECT if ways.json_object else None),
                "structured_outputs.regex": ("regex", ways.regex),
                "structured_outputs.choice": ("choice", ways.choice),
                "structured_outputs.grammar": ("grammar", ways.grammar),
            }
        wants = [
            OutputFormat((_fragment(kind, value, param),), param)
            for param, (kind, value) in asked.items()
            if value is not None
        ]
        if response_format and (formatted := _from_response_format(response_format)):
            wants.append(formatted)
        if len(wants) > 1:
            names = " and ".join(want.param for want in wants)
            raise ApiError(400, f"{names} exclude each other.", param=wants[1].param, code="invalid_value")
        return wants[0] if wants else None


def json_candidates(schema: dict[str, Any], strict: bool | None) -> tuple[GrammarFragment, ...]:
    """A schema that is to be kept to, or without `strict` as far as it can be."""
    return (json_fragment(schema),) if strict else (json_fragment(schema), json_fragment(schema, lenient=True))


def _from_response_format(wanted: ResponseFormat) -> OutputFormat | None:
    param = "response_format"
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputFormat((json_fragment(ANY_OBJECT),), param)
    named = wanted.json_schema
    if named is None:
        raise ApiError(400, "response_format.json_schema is missing.", param=f"{param}.json_schema")
    if named.schema_ is None:
        raise ApiError(400, "response_format.json_schema.schema is missing.", param=f"{param}.json_schema.schema")
    return OutputFormat(json_candidates(named.schema_, named.strict), param)


def _fragment(kind: str, value: Any, param: str) -> GrammarFragment:
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
