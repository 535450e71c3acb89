"""Which of several candidates constrains the output: the first that compiles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgedraft.grammar.service import GrammarService
from gateway.http.errors import ApiError
from gateway.prompt.output_format import OutputFormat, first_compiling, schema_candidates
from gateway.prompt.output_grammar import json_fragment, regex_fragment

SERVABLE = {"type": "object", "properties": {"city": {"type": "string"}}}
NEEDS_LENIENCE = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
BROKEN = regex_fragment("(a")
GOOD = regex_fragment("[ab]")


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarService]:
    service = GrammarService(max_workers=1)
    yield service
    service.close()


def test_a_strict_schema_has_one_candidate() -> None:
    assert schema_candidates(SERVABLE, True) == (json_fragment(SERVABLE),)


@pytest.mark.parametrize("strict", [False, None])
def test_another_schema_is_tried_exactly_before_leniently(strict: bool | None) -> None:
    assert schema_candidates(SERVABLE, strict) == (json_fragment(SERVABLE), json_fragment(SERVABLE, lenient=True))


async def test_the_first_candidate_that_compiles_is_taken(grammars: GrammarService) -> None:
    assert await first_compiling((BROKEN, GOOD, regex_fragment("[cd]")), grammars) == (GOOD, "")


async def test_the_error_is_the_last_candidates(grammars: GrammarService) -> None:
    fragment, error = await first_compiling((regex_fragment("[z-a]"), BROKEN), grammars)
    assert fragment is None
    assert "unclosed group" in error


async def test_an_unsupported_keyword_is_ignored_unless_strict(grammars: GrammarService) -> None:
    chosen = await OutputFormat(schema_candidates(NEEDS_LENIENCE, False), "response_format").first_servable(grammars)
    assert chosen == json_fragment(NEEDS_LENIENCE, lenient=True)
    with pytest.raises(ApiError) as raised:
        await OutputFormat(schema_candidates(NEEDS_LENIENCE, True), "response_format").first_servable(grammars)
    error = raised.value.body["error"]
    assert (raised.value.status, error["param"], error["code"]) == (400, "response_format", "invalid_value")
    assert "uniqueItems" in error["message"]
