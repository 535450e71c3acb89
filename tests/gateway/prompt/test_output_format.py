"""A content's fragment: as it was given, or made of a schema that is followed exactly or as far as possible."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgedraft.grammar.limits import MAX_ERROR_CHARACTERS
from edgedraft.grammar.service import GrammarChecker, GrammarService
from edgedraft.workers.pool import JobOwner
from gateway.http.errors import ApiError
from gateway.prompt.output_format import OutputFormat, ServableFormat
from gateway.prompt.output_grammar import json_fragment, regex_fragment

NEEDS_LENIENCE = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarChecker]:
    service = GrammarService(max_workers=1)
    yield GrammarChecker(service, JobOwner("key"))
    service.close()


async def test_a_fragment_is_taken_as_it_is(grammars: GrammarChecker) -> None:
    fragment = regex_fragment("[ab]")
    assert await OutputFormat(fragment, "guided_regex").servable(grammars) == ServableFormat(fragment)
    with pytest.raises(ApiError, match="unclosed group"):
        await OutputFormat(regex_fragment("(a"), "guided_regex").servable(grammars)


async def test_an_unsupported_keyword_is_ignored_unless_strict(grammars: GrammarChecker) -> None:
    chosen = await OutputFormat(NEEDS_LENIENCE, "response_format", strict=False).servable(grammars)
    assert chosen == ServableFormat(json_fragment(NEEDS_LENIENCE, lenient=True), ("response_format#/uniqueItems",))
    with pytest.raises(ApiError) as raised:
        await OutputFormat(NEEDS_LENIENCE, "response_format").servable(grammars)
    error = raised.value.body["error"]
    assert (raised.value.status, error["param"], error["code"]) == (400, "response_format", "invalid_value")
    assert "uniqueItems" in error["message"]


async def test_an_error_is_short_and_quotes_no_grammar(grammars: GrammarChecker) -> None:
    fields = {f"f{i}": {"type": "string", "pattern": "^(?!x)"} for i in range(300)}
    with pytest.raises(ApiError) as raised:
        await OutputFormat({"type": "object", "properties": fields}, "response_format").servable(grammars)
    message = raised.value.body["error"]["message"]
    assert "look-around" in message
    assert len(message) < MAX_ERROR_CHARACTERS + 50
    assert "TEXT:" not in message
    assert "x-guidance" not in message
