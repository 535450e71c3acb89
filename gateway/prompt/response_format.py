"""What a request wants its answer's text to be: OpenAI's response_format, and the extras that vLLM's clients know.

Every way comes to one Body (grammar.py).

Sources: OpenAI API reference, "Create chat completion": response_format; vLLM documentation, "Structured Outputs".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from gateway.http.errors import ApiError
from gateway.http.validation import Schema
from gateway.prompt.grammar import Body, choice_body, grammar_body, json_body, output_grammar, regex_body
from gateway.prompt.grammar_check import GrammarCheck

MAX_CHOICES = 1024
MAX_PATTERN = 1 << 14  # characters
MAX_CLIENT_GRAMMAR = 1 << 15  # characters

ANY_OBJECT = {"type": "object"}

JsonSchema = dict[str, Any] | str
Pattern = Annotated[str, Field(max_length=MAX_PATTERN)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
ClientGrammar = Annotated[str, Field(max_length=MAX_CLIENT_GRAMMAR)]


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """`bodies` are to be tried in order: the first that compiles is what the text has to be.

    More than one there is where a schema is to be followed as far as it can be. `param` is where they came from.
    """

    bodies: tuple[Body, ...]
    param: str

    async def served(self, grammars: GrammarCheck) -> Body:
        """The body to hold the text to. Raises ApiError 400 when none compiles."""
        problem = ""
        for body in self.bodies:
            problem = await grammars.problem(output_grammar(body, None, None, {}))
            if not problem:
                return body
        raise ApiError(400, f"Invalid {self.param}: {problem}", param=self.param, code="invalid_value")


class NamedSchema(Schema):
    """OpenAI's json_schema; `strict` asks for a refusal of what cannot be kept to exactly."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=64)]
    description: str | None = None
    document: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Schema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Schema):
    """vLLM's newer parameter; one of its fields at a time."""

    document: Annotated[JsonSchema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: ClientGrammar | None = None


class StructuredParameters(Schema):
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
                "structured_outputs.json": ("json", ways.document),
                "structured_outputs.json_object": ("json", ANY_OBJECT if ways.json_object else None),
                "structured_outputs.regex": ("regex", ways.regex),
                "structured_outputs.choice": ("choice", ways.choice),
                "structured_outputs.grammar": ("grammar", ways.grammar),
            }
        wants = [
            OutputFormat((_body(kind, value, param),), param)
            for param, (kind, value) in asked.items()
            if value is not None
        ]
        if response_format and (formatted := _of_response_format(response_format)):
            wants.append(formatted)
        if len(wants) > 1:
            names = " and ".join(want.param for want in wants)
            raise ApiError(400, f"{names} exclude each other.", param=wants[1].param, code="invalid_value")
        return wants[0] if wants else None


def json_bodies(schema: dict[str, Any], strict: bool | None) -> tuple[Body, ...]:
    """A schema that is to be kept to, or without `strict` as far as it can be."""
    return (json_body(schema),) if strict else (json_body(schema), json_body(schema, lenient=True))


def _of_response_format(wanted: ResponseFormat) -> OutputFormat | None:
    param = "response_format"
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputFormat((json_body(ANY_OBJECT),), param)
    named = wanted.json_schema
    if named is None:
        raise ApiError(400, "response_format.json_schema is missing.", param=f"{param}.json_schema")
    if named.document is None:
        raise ApiError(400, "response_format.json_schema.schema is missing.", param=f"{param}.json_schema.schema")
    return OutputFormat(json_bodies(named.document, named.strict), param)


def _body(kind: str, value: Any, param: str) -> Body:
    try:
        match kind:
            case "json":
                return json_body(_schema(value, param))
            case "regex":
                return regex_body(value)
            case "choice":
                return choice_body(value)
            case _:
                return grammar_body(value)
    except ValueError as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="invalid_value") from None


def _schema(value: JsonSchema, param: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = from_json(value)
    if not isinstance(value, dict):
        raise ApiError(400, f"{param} is no JSON schema.", param=param, code="invalid_value")
    return value
