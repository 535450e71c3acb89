"""Which grammars the service accepts, within which bounds, and that the verifier accepts the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedraft.grammar import service as service_module
from edgedraft.grammar.limits import MAX_CHARACTERS, MAX_ERROR_CHARACTERS
from edgedraft.grammar.service import TOO_COSTLY, GrammarChecker, GrammarService
from edgedraft.workers.limits import WorkerLimits
from edgedraft.workers.pool import JobOwner, WorkersUnavailable
from gateway.model.tool_call_format import HERMES
from gateway.prompt.output_grammar import (
    GrammarFragment,
    ToolCallRule,
    build_output_grammar,
    choice_fragment,
    client_grammar_fragment,
    json_fragment,
    regex_fragment,
)
from tests.support import toy_model
from verifier.engine.grammar import Constraint, GrammarCache

OWNER = JobOwner("key")
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def alone(content: GrammarFragment) -> str:
    return build_output_grammar(content, None, None, {})


def optional_fields(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"field_{i}": {"type": "string"} for i in range(count)}}


def tools(count: int, parameters: int) -> str:
    arguments = json_fragment(optional_fields(parameters))
    rule = ToolCallRule(HERMES, tuple((f"tool_{i}", arguments) for i in range(count)), False, True)
    return build_output_grammar(None, None, rule, {})


@pytest.fixture
def service() -> Iterator[GrammarService]:
    service = GrammarService()
    yield service
    service.close()


HOSTILE: list[tuple[GrammarFragment, str]] = [
    (json_fragment({"type": "objekt"}), "Invalid type: objekt"),
    (json_fragment({"not": {}}), "not"),
    (json_fragment({"$ref": "https://example.com/schema"}), ""),
    (json_fragment({"$ref": "#/$defs/missing"}), ""),
    (json_fragment({"type": "string", "pattern": "(?=a)"}), "look-around"),
    (json_fragment({"type": "integer", "minimum": 5, "maximum": 1}), ""),
    (json_fragment({"type": "integer", "multipleOf": 999983}), "too much time"),
    (json_fragment({"enum": ["x" * 1000 + str(i) for i in range(300)]}), "characters"),
    (regex_fragment("(a"), "unclosed group"),
    (client_grammar_fragment('start: "a" | missing'), "missing"),
    (client_grammar_fragment("start: <nothing>"), "nothing"),
    (client_grammar_fragment('start: /x*/ "b"\n%llguidance {"a": 1'), ""),
    (client_grammar_fragment('start: x "b"\nx[max_tokens=3]: /x*/'), "max_tokens"),
]


async def test_what_cannot_be_served_is_told_apart(service: GrammarService) -> None:
    for fragment, said in HOSTILE:
        error = await service.find_error(alone(fragment), OWNER)
        assert error, fragment
        assert said in error
    assert await service.find_error(alone(json_fragment(CITY)), OWNER) == "", "the next is served by a new process"


async def test_a_result_is_remembered(service: GrammarService) -> None:
    good, bad = alone(json_fragment(CITY)), alone(regex_fragment("(a"))
    results = [await service.find_error(good, OWNER), await service.find_error(bad, OWNER)]
    service.close()
    assert [await service.find_error(good, OWNER), await service.find_error(bad, OWNER)] == results
    with pytest.raises(WorkersUnavailable):  # no worker is left to ask
        await service.find_error(alone(json_fragment({"type": "string"})), OWNER)


async def test_a_compiler_that_fails_is_the_grammars_fault(service: GrammarService) -> None:
    """It would fail again, so that telling the client to try again later is of no use."""
    job = service_module._job("try", 'start: "a"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_module, "_job", lambda check, grammar: b"no pair")
        error = await service.find_error('start: "a"', OWNER)
        assert error == await asyncio.to_thread(service.find_compile_error, 'start: "a"', OWNER)
    assert "the compiler fails on it" in error
    assert await service._pool.run(job, OWNER) == b"", "its worker goes on"


async def test_remembered_results_are_bounded(service: GrammarService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_REMEMBERED", 2)
    for number in range(5):
        await service.find_error(f'start: "{number}"', OWNER)
    assert len(service._results) == 2


async def test_grammars_are_checked_side_by_side_and_a_killed_worker_takes_no_other_with_it() -> None:
    service = GrammarService(WorkerLimits(cpu_seconds=0.5))
    slow = alone(json_fragment({"type": "integer", "multipleOf": 999983}))
    good = [alone(choice_fragment([str(number)])) for number in range(8)]
    try:
        assert await asyncio.gather(*(service.find_error(g, OWNER) for g in [slow, *good])) == [
            TOO_COSTLY,
            *[""] * len(good),
        ]
    finally:
        service.close()


async def test_a_worker_is_killed_after_the_elapsed_time_too() -> None:
    service = GrammarService(WorkerLimits(cpu_seconds=60, wall_seconds=0.3))
    try:
        slow = alone(json_fragment({"type": "integer", "multipleOf": 999983}))
        assert await service.find_error(slow, OWNER) == TOO_COSTLY
    finally:
        service.close()


async def test_a_worker_is_killed_for_its_memory() -> None:
    service = GrammarService(WorkerLimits(memory_bytes=60 << 20))
    try:
        assert await service.find_error("start: /a{100000}/", OWNER) == TOO_COSTLY
        assert await service.find_error("start: /a{100}/", OWNER) == ""
    finally:
        service.close()


async def test_the_checks_of_one_request_have_one_budget(service: GrammarService) -> None:
    charged: list[float] = []
    checker = GrammarChecker(service, JobOwner("key", 1.0, charged.append), max_seconds=0.01)
    slow = alone(json_fragment({"type": "integer", "multipleOf": 9973}))
    assert await checker.find_error(slow) == ""
    assert sum(charged) > 0.01
    assert await checker.find_error(alone(json_fragment(CITY))) == TOO_COSTLY
    assert await GrammarChecker(service, OWNER).find_error(alone(json_fragment(CITY))) == "", "another request"


async def test_an_error_is_short(service: GrammarService) -> None:
    error = await service.find_error("start: " + "undefined_" * 200, OWNER)
    assert 0 < len(error) <= MAX_ERROR_CHARACTERS
    assert "characters" in await service.find_error("x" * (MAX_CHARACTERS + 1), OWNER)


async def test_nothing_is_imported_from_the_current_folder(
    service: GrammarService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llguidance.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert await service.find_error('start: "a"', OWNER) == ""


# Grammars near a limit, and whether the gateway accepts them.
BORDERLINE: dict[str, tuple[str, bool]] = {
    "75 optional fields": (alone(json_fragment(optional_fields(75))), True),
    "76 optional fields": (alone(json_fragment(optional_fields(76))), True),
    "400 optional fields": (alone(json_fragment(optional_fields(400))), True),
    "600 optional fields": (alone(json_fragment(optional_fields(600))), False),
    "299 texts": (alone(choice_fragment([f"option number {i}" for i in range(299)])), True),
    "300 texts": (alone(choice_fragment([f"option number {i}" for i in range(300)])), True),
    "1,024 texts": (alone(choice_fragment([f"option number {i}" for i in range(1024)])), True),
    "1,024 long texts": (alone(choice_fragment([f"{i} " + "abcdefgh " * 12 for i in range(1024)])), True),
    "an enum of 500": (alone(json_fragment({"enum": [f"value-{i}" for i in range(500)]})), True),
    "50 alternatives": (
        alone(json_fragment({"anyOf": [{**optional_fields(5), "required": [f"field_{i % 5}"]} for i in range(50)]})),
        True,
    ),
    "128 tools of 10": (tools(128, 10), True),
    "a pattern of 1,000": (alone(regex_fragment("[a-z]{1,1000}")), True),
    "a pattern of a million": (alone(regex_fragment("(a{1000}){1000}")), False),
    "twenty patterns at once": (
        alone(json_fragment({"allOf": [{"pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrst"]})),
        False,
    ),
}


def generate(constraint: Constraint, tokens: int) -> None:
    """Takes the first of the allowed tokens each time."""
    for _ in range(tokens):
        allowed = constraint.allowed_tokens(toy_model.VOCAB_SIZE)
        assert allowed is not None
        constraint.accept_token(int(allowed.argmax()))
        if constraint.is_complete:
            break


@pytest.mark.parametrize("name", BORDERLINE)
async def test_what_the_gateway_accepts_runs_at_the_verifier(
    shared: tuple[GrammarService, GrammarCache], name: str
) -> None:
    service, cache = shared
    grammar, accepted = BORDERLINE[name]
    error = await service.find_error(grammar, OWNER)
    compiled = await asyncio.to_thread(cache.compile, grammar)
    assert (error == "") == accepted, error
    if accepted:
        assert not compiled.error
        generate(cache.start(compiled, ()), 24)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[GrammarService, GrammarCache]]:
    """The gateway's service, and the verifier's cache with a service of its own."""
    gateway, verifier = GrammarService(), GrammarService()
    yield gateway, GrammarCache(toy_model.card(), verifier)
    gateway.close()
    verifier.close()


def test_token_ids_compile_at_the_verifier(shared: tuple[GrammarService, GrammarCache]) -> None:
    _, cache = shared
    compiled = cache.compile(f'start: "a" <[{toy_model.EOS}]> "b"')
    assert not compiled.error
