"""Schemas that are accepted can be followed to their end; without `strict` only what cannot be kept is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llguidance import LLTokenizer

from edgedraft.grammar.compiler import compile_grammar
from edgedraft.grammar.service import GrammarChecker, GrammarService
from edgedraft.workers.pool import JobOwner, WorkersUnavailable
from gateway.prompt.json_schema import SchemaTooLarge, check_size, prepare_schema
from gateway.prompt.output_grammar import build_output_grammar, json_fragment
from gateway.prompt.schema_fragment import MAX_LEFT_OUT, MAX_POINTER, FittedSchema, schema_fragment
from tests.support.processor_time import assert_linear


@pytest.fixture(scope="module")
def service() -> Iterator[GrammarService]:
    service = GrammarService()
    yield service
    service.close()


@pytest.fixture
def grammars(service: GrammarService) -> GrammarChecker:
    return GrammarChecker(service, JobOwner("key"))


async def test_without_workers_nothing_is_taken_for_impossible() -> None:
    service = GrammarService()
    service.close()
    with pytest.raises(WorkersUnavailable):
        await schema_fragment({"type": "string"}, False, GrammarChecker(service, JobOwner("key")))


def closed(**properties: Any) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


CANNOT_END: dict[str, tuple[dict[str, Any], str]] = {
    "a pattern that matches a property": (
        {**closed(score={"type": "boolean"}), "patternProperties": {"^score$": {"type": "boolean"}}},
        "patternProperties",
    ),
    "a pattern among several names": (
        {**closed(ab={"type": "boolean"}), "patternProperties": {"^a": {"type": "boolean"}}},
        "patternProperties",
    ),
    "two patterns": (
        {"type": "object", "patternProperties": {"^a": {"type": "boolean"}, "b$": {"type": "integer"}}},
        "disjoint",
    ),
    "an object that requires itself": (closed(a={"$ref": "#"}), "requires itself"),
    "an array of itself": ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "requires itself"),
    "two that require each other": (
        {**closed(a={"$ref": "#/$defs/b"}), "$defs": {"b": closed(c={"$ref": "#"})}},
        "requires itself",
    ),
    "no alternative": ({"anyOf": []}, "anyOf"),
    "no value": ({"enum": []}, "empty"),
    "a value of another type": ({"type": "string", "enum": [1]}, "incompatible"),
    "a required name that is not allowed": (
        {"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False},
        "'b'",
    ),
    "bounds that exclude each other": ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
}


@pytest.mark.parametrize("name", CANNOT_END)
async def test_a_strict_schema_without_an_end_is_refused(grammars: GrammarChecker, name: str) -> None:
    schema, said = CANNOT_END[name]
    fitted = await schema_fragment(schema, True, grammars)
    assert fitted.fragment is None
    assert said in fitted.error


@pytest.mark.parametrize(
    "schema",
    [
        {**closed(ab={"type": "boolean"}), "patternProperties": {"^x-": {"type": "integer"}}},
        closed(a={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}},
    ],
)
async def test_schemas_that_end_are_served(grammars: GrammarChecker, schema: dict[str, Any]) -> None:
    fitted = await schema_fragment(schema, True, grammars)
    assert fitted.fragment, fitted.error


@pytest.mark.parametrize(
    "left_out",
    [
        {"type": "string", "pattern": "^(?!x)"},
        {"type": "integer", "minimum": -1e40},
        {"type": "integer", "minimum": -(2**64)},
        {"type": "integer", "exclusiveMaximum": 1e30},
        {"type": "number", "maximum": 2**63},
    ],
)
async def test_without_strict_only_the_keyword_is_left_out(grammars: GrammarChecker, left_out: dict[str, Any]) -> None:
    kept = {"type": "string", "pattern": "^[a-z]+$"}
    schema = closed(a=left_out, b=kept)
    fitted = await schema_fragment(schema, False, grammars)
    reduced = closed(a={"type": left_out["type"]}, b=kept)
    assert fitted.fragment in (json_fragment(reduced), json_fragment(reduced, lenient=True)), fitted.error
    (keyword,) = set(left_out) - {"type"}
    assert fitted.left_out == (f"/properties/a/{keyword}",)
    assert (await schema_fragment(schema, True, grammars)).fragment is None


@pytest.mark.parametrize("name", ["Foo[Bar]", "Größe", "a b", "a/b", "F%C3%BC"])
@pytest.mark.parametrize("keyword", ["$defs", "definitions"])
async def test_definitions_may_have_any_name(grammars: GrammarChecker, name: str, keyword: str) -> None:
    pointer = name.replace("%", "%25").replace("/", "~1")
    schema = {**closed(a={"$ref": f"#/{keyword}/{pointer}"}), keyword: {name: {"type": "boolean"}}}
    fitted = await schema_fragment(schema, True, grammars)
    assert fitted.fragment, fitted.error
    assert '"boolean"' in fitted.fragment.expression


def test_objects_are_closed_unless_they_say_otherwise() -> None:
    inner = {"type": "object", "properties": {"b": {}}}
    schema = {"type": "object", "properties": {"a": inner, "open": {**inner, "additionalProperties": True}}}
    prepared = prepare_schema(schema)
    assert prepared["additionalProperties"] is False
    assert prepared["properties"]["a"]["additionalProperties"] is False
    assert prepared["properties"]["open"]["additionalProperties"] is True
    assert "additionalProperties" not in schema, "the client's own stays as it is"
    assert "additionalProperties" not in prepare_schema({"type": "object"})
    assert prepare_schema({"const": inner}) == {"const": inner}


def test_objects_that_several_schemas_describe_stay_open() -> None:
    base = {"type": "object", "properties": {"a": {}}}
    schema = {"allOf": [{"$ref": "#/$defs/base"}, {"type": "object", "properties": {"b": {}}}], "$defs": {"base": base}}
    assert prepare_schema(schema) == schema
    schema = {**base, "anyOf": [{"properties": {"b": {}}}, {"required": ["a"]}]}
    assert prepare_schema(schema) == schema


def test_a_schema_of_great_depth_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SchemaTooLarge, match="deep"):
        check_size(schema)


async def test_what_the_compiler_does_not_implement_is_told_too(grammars: GrammarChecker) -> None:
    schema = closed(
        **{
            "a/b": {"type": "array", "items": {"not": {"type": "string"}}, "uniqueItems": True},
            "c": {"anyOf": [{"type": "string", "format": "nothing"}, {"type": "string", "format": "date"}]},
        }
    )
    fitted = await schema_fragment(schema, False, grammars)
    assert fitted.fragment, fitted.error
    assert set(fitted.left_out) == {
        "/properties/a~1b/items/not",
        "/properties/a~1b/uniqueItems",
        "/properties/c/anyOf/0/format",
    }
    assert (await schema_fragment(closed(c={"type": "string"}), False, grammars)).left_out == ()


async def test_what_is_told_is_bounded(grammars: GrammarChecker) -> None:
    names = {f"{'n' * 300}{number}": {"type": "string", "pattern": "^(?!x)"} for number in range(40)}
    fitted = await schema_fragment(closed(**names), False, grammars)
    assert len(fitted.left_out) == MAX_LEFT_OUT
    assert max(map(len, fitted.left_out)) == MAX_POINTER


LOWEST, HIGHEST = -(2**63), 2**63 - 1
NUMBERS = [LOWEST - 1, LOWEST, LOWEST + 1024, -(2**53), 0, 2**53, 2**53 + 1, 2**62, 2**62 + 1, HIGHEST - 1, HIGHEST]


@pytest.mark.parametrize(
    "bounds",
    [
        {"minimum": LOWEST, "maximum": HIGHEST},
        {"exclusiveMinimum": LOWEST, "exclusiveMaximum": 2**63},
        {"minimum": 0, "maximum": 2**64 - 1},
        {"minimum": 2**53 + 1, "maximum": 2**62 + 1},
        {"minimum": -(2**53) - 1, "exclusiveMaximum": 2**62 + 1},
        {"minimum": -5, "exclusiveMinimum": LOWEST},
    ],
)
async def test_bounds_of_64_bits_are_followed(grammars: GrammarChecker, bounds: dict[str, int]) -> None:
    """Without `strict`: each number that may be written is within them, and those far enough inside may be written."""
    fitted = await schema_fragment({"type": "integer"} | bounds, False, grammars)
    assert fitted.fragment, fitted.error
    assert not fitted.left_out
    lowest = max(bounds.get("minimum", LOWEST - 9), bounds.get("exclusiveMinimum", LOWEST - 9) + 1)
    highest = min(bounds.get("maximum", 2**70), bounds.get("exclusiveMaximum", 2**70) - 1)
    for number in NUMBERS:
        matcher = compile_grammar(build_output_grammar(fitted.fragment), LLTokenizer("byte"))
        text = str(number).encode()
        written = matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()
        assert written <= (lowest <= number <= highest), number
        if lowest + 1024 <= number <= min(highest - 1024, HIGHEST) or number == HIGHEST <= highest:
            assert written, number


def writes(fitted: FittedSchema, text: str) -> bool:
    assert fitted.fragment, fitted.error
    matcher = compile_grammar(build_output_grammar(fitted.fragment), LLTokenizer("byte"))
    return matcher.try_consume_tokens(list(text.encode())) == len(text) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ({"minimum": LOWEST}, f"/minimum: {LOWEST}"),
        ({"maximum": 2**62 + 1}, f"/maximum: {2**62 + 1}"),
        ({"maximum": 2**64 - 1}, f"/maximum: {2**64 - 1}"),
        ({"exclusiveMinimum": 2**60}, f"/exclusiveMinimum: {2**60}"),
        ({"minimum": 2**64}, f"/minimum: {2**64}"),
    ],
)
async def test_a_strict_bound_that_cannot_be_kept_to_exactly_is_refused_by_name(
    grammars: GrammarChecker, bounds: dict[str, int], named: str
) -> None:
    """The compiler reads bounds as floats, and would never write some of the numbers that they allow."""
    fitted = await schema_fragment(closed(a={"type": "integer"} | bounds), True, grammars)
    assert fitted.fragment is None
    assert f"/properties/a{named}" in fitted.error


@pytest.mark.parametrize(
    ("bounds", "allowed", "forbidden"),
    [
        ({"minimum": 2**60, "maximum": HIGHEST}, (2**60, HIGHEST), (2**60 - 1, HIGHEST + 1)),
        ({"exclusiveMaximum": 2**63}, (HIGHEST, -(10**18)), (HIGHEST + 1,)),
        ({"minimum": -(2**60), "maximum": 2**53}, (-(2**60), 2**53), (-(2**60) - 1, 2**53 + 1)),
    ],
)
async def test_strict_bounds_that_are_floats_are_kept_to_exactly(
    grammars: GrammarChecker, bounds: dict[str, int], allowed: tuple[int, ...], forbidden: tuple[int, ...]
) -> None:
    fitted = await schema_fragment({"type": "integer"} | bounds, True, grammars)
    assert all(writes(fitted, str(number)) for number in allowed)
    assert not any(writes(fitted, str(number)) for number in forbidden)


UNWRITABLE = [2**53 + 1, LOWEST, LOWEST + 1, 2**63, -9.223372036854775808e18, 2**64 - 1, 2**64, 10**400]


@pytest.mark.parametrize("value", UNWRITABLE)
async def test_a_value_that_would_be_written_as_another_is_refused_or_left_out(
    grammars: GrammarChecker, value: float
) -> None:
    """The lowest ones ended the process that compiled them."""
    schema = closed(a={"const": {"b": [value]}}, c={"enum": [1, value]})
    fitted = await schema_fragment(schema, True, grammars)
    assert fitted.fragment is None
    assert fitted.error.startswith(f"/properties/a/const: {str(value)[:40]}")
    fitted = await schema_fragment(schema, False, grammars)
    assert fitted.left_out == ("/properties/a/const", "/properties/c/enum/1")
    assert writes(fitted, '{"a":null,"c":1}')
    assert not writes(fitted, '{"a":null,"c":2}')
    assert writes(await schema_fragment({"enum": [value]}, False, grammars), "7")


@pytest.mark.parametrize("value", [0, -(2**53), 2**60, -(2**60), HIGHEST, LOWEST + 1024, 10**19, -(10**20), 0.1])
async def test_other_values_are_written_as_they_are(grammars: GrammarChecker, value: float) -> None:
    for schema in ({"const": value}, {"enum": ["x", value]}):
        assert writes(await schema_fragment(schema, True, grammars), str(value))


def test_references_that_lead_on_and_on_are_no_error() -> None:
    def within(levels: int, inner: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [within(levels - 1, inner)]} if levels else inner

    count = 90
    steps = {f"d{n}": within(12, {"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    prepared = prepare_schema({"$defs": steps | {f"d{count}": {}}, "$ref": "#/$defs/d0"})
    assert prepared["$ref"] == "#/$defs/d0"


@pytest.mark.parametrize("at", ["allOf", "anyOf"])
def test_preparing_a_schema_grows_with_its_size(at: str) -> None:
    """Four thousand references took a second when each was compared with all others."""

    def prepare(count: int) -> object:
        refs = [{at: [{"$ref": f"#/$defs/d{n}"}]} for n in range(count)]
        return prepare_schema({"$defs": {f"d{n}": {"properties": {"a": {}}} for n in range(count)}, "anyOf": refs})

    assert_linear(prepare, 4000)
