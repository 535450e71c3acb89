"""What a session is told whose grammar cannot be compiled now, and that it says nothing about the grammar."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgedraft.grammar.limits import WORKER_LIMITS
from edgedraft.grammar.service import GrammarService
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import CLOSE_OVERLOADED, Close, Commit, Open, Sampling
from edgedraft.workers.limits import QueueLimits
from edgedraft.workers.pool import WorkerPool
from tests.support import toy_model
from tests.support.tiny_llama import tiny_llama
from tests.verifier.counting_engine import LIMITS, LoopRunner
from verifier.engine.grammar import GrammarCache
from verifier.engine.transformers_engine import TransformersEngine

DIGITS = Sampling(temperature=0, grammar="start: /[0-9]{3}/")


def no_room() -> GrammarService:
    """Nothing may wait for its workers."""
    service = GrammarService()
    service._pool = WorkerPool("edgedraft.grammar.worker", WORKER_LIMITS, 1, QueueLimits(jobs_per_share=0))
    return service


def no_workers() -> GrammarService:
    service = GrammarService()
    service.close()
    return service


class Verifier:
    """An engine loop whose sessions are prepared as the server does it."""

    def __init__(self, service: GrammarService) -> None:
        model = PackedModel(tiny_llama(vocab_size=toy_model.VOCAB_SIZE), 1024)
        self.cache = GrammarCache(toy_model.card(), service)
        self.engine = TransformersEngine(model, toy_model.VOCAB_SIZE, 512, 4, self.cache)
        self.runner = LoopRunner(self.engine, LIMITS)  # type: ignore[arg-type]
        self.runner.loop.start()

    def last_reply(self, session: int) -> object:
        message = Open(session, [5, 6, 7], DIGITS, 8)
        self.runner.loop.post(1, message, self.engine.precompile(message.sampling, ""))
        return self.runner.until_end(session)[-1]


@pytest.fixture(params=[no_room, no_workers])
def verifier(request: pytest.FixtureRequest) -> Iterator[Verifier]:
    verifier = Verifier(request.param())
    yield verifier
    verifier.runner.loop.stop()
    verifier.cache._service.close()


def test_a_grammar_that_cannot_be_compiled_now_is_an_overload(verifier: Verifier) -> None:
    reply = verifier.last_reply(1)
    assert isinstance(reply, Close)
    assert (reply.code, reply.retry_after > 0) == (CLOSE_OVERLOADED, True), "not the grammar's fault"

    verifier.cache._service = GrammarService()
    reply = verifier.last_reply(2)
    assert isinstance(reply, Commit)
    assert reply.finish, "nothing was remembered of it"


def test_a_grammar_that_an_engine_has_checked_needs_no_workers(verifier: Verifier) -> None:
    """A vLLM worker compiles in mid-step, where an overload would end the verifier."""
    compiled = verifier.cache.compile_checked(DIGITS.grammar)
    assert compiled.is_final
    assert compiled.matcher is not None
