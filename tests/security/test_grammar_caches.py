"""Attack: ever new grammars, good and bad ones, fill what gateway and verifier remember of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgedraft.grammar import service as service_module
from edgedraft.grammar.limits import MAX_ERROR_CHARACTERS
from edgedraft.grammar.service import GrammarService
from edgedraft.workers.pool import JobOwner
from tests.support import toy_model
from verifier.engine import grammar as grammar_module
from verifier.engine.grammar import MATCHER_BYTES, GrammarCache

OWNER = JobOwner("key")


@pytest.fixture
def service() -> Iterator[GrammarService]:
    service = GrammarService()
    yield service
    service.close()


async def test_what_is_remembered_of_answers_is_bounded_in_bytes(
    service: GrammarService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_REMEMBERED", 16)
    for number in range(40):
        assert await service.find_error(f"start: missing_{number}_" + "x" * 20_000, OWNER)
    kept = sum(len(digest) + len(error) for (_, digest), error in service._results.items())
    assert kept <= 16 * (32 + MAX_ERROR_CHARACTERS)


def test_compiled_grammars_are_bounded_in_bytes(service: GrammarService, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 8 * MATCHER_BYTES
    monkeypatch.setattr(grammar_module, "MAX_CACHED_BYTES", bound)
    cache = GrammarCache(toy_model.card(), service)
    last = None
    for number in range(24):
        grammar = f'start: "{number}" /[a-z]+/'
        constraint = cache.start(cache.compile(grammar), ())
        for _ in range(8):  # followed, a grammar grows
            allowed = constraint.allowed_tokens(toy_model.VOCAB_SIZE)
            assert allowed is not None
            constraint.accept_token(int(allowed.argmax()))
        last = cache.compile(grammar)
    large = cache.compile("start: " + " | ".join(f'"text number {n}"' for n in range(1000)))
    assert large.matcher
    assert sum(compiled.estimated_bytes for compiled in cache._cached.values()) <= bound
    assert last
    assert last.matcher, "a session keeps what it follows, evicted or not"


def test_busy_or_missing_workers_are_no_verdict_on_a_grammar() -> None:
    closed = GrammarService()
    closed.close()
    cache = GrammarCache(toy_model.card(), closed)
    assert cache.compile('start: "a"').matcher is None
    assert not cache._cached
