"""Attack: grammars that compile slowly, more than a verifier keeps, so that its engine compiles all the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from websockets.sync.client import ClientConnection, connect

from edgedraft import wire
from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import Commit, Hello, Open, Sampling, encode_frame
from tests.verifier.conftest import demo_target
from tests.verifier.running_server import RunningVerifier, running
from verifier.engine import grammar as grammar_module
from verifier.engine.grammar import GrammarCache
from verifier.engine.transformers_engine import TransformersEngine
from verifier.model_card import build_model_card
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.settings import VerifierSettings

__all__ = ["demo_target"]  # a fixture

GREEDY = Sampling(temperature=0)
DIGITS = Sampling(temperature=0, grammar="start: /[0-9]{3}/")
TOKENS = 24


class HeldCompiler:
    """Compiles once it is released, and notes in which threads it was called."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.released = threading.Event()
        self.threads: set[str] = set()
        self._compile = grammar_module.compile_grammar

    def __call__(self, grammar: str, tokenizer: LLTokenizer) -> LLMatcher:
        self.threads.add(threading.current_thread().name)
        self.called.set()
        assert self.released.wait(120)
        return self._compile(grammar, tokenizer)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldCompiler]:
    """Of a verifier whose cache keeps nothing."""
    compiler = HeldCompiler()
    monkeypatch.setattr(grammar_module, "compile_grammar", compiler)
    monkeypatch.setattr(grammar_module, "MAX_CACHED_BYTES", 0)
    yield compiler
    compiler.released.set()


@pytest.fixture
def verifier(demo_target: PackedModel) -> Iterator[RunningVerifier]:
    settings = VerifierSettings.model_validate({"max_sessions": 3, "max_waiting": 1})
    card = build_model_card(settings, str(ensure_demo_model()), 8192)
    engine = TransformersEngine(demo_target, card.vocab_size, card.context_length, 3, GrammarCache(card))
    limits = SchedulerLimits(
        step_tokens=64, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, max_waiting=1
    )
    with running(engine, limits, card, max_sessions=3) as server:
        yield server


def receive(link: ClientConnection, session: int) -> int:
    """The number of tokens that the session commits until it finishes; other sessions commit nothing meanwhile."""
    tokens = 0
    while True:
        message: Any
        for message in wire.decode_from_verifier(link.recv(60)):
            assert isinstance(message, Commit), message
            assert message.session == session
            tokens += len(message.tokens)
            if message.finish is not None:
                return tokens


def test_other_streams_go_on_while_a_grammar_compiles(compiler: HeldCompiler, verifier: RunningVerifier) -> None:
    with connect(f"{verifier.url}/v1/engine", max_size=wire.MAX_FRAME) as link:
        link.send(encode_frame([Hello(wire.PROTOCOL, "test")]))
        link.recv(30)
        link.send(encode_frame([Open(1, [504, 253], DIGITS, 8)]))
        assert compiler.called.wait(60)
        link.send(encode_frame([Open(2, [504, 253], GREEDY, TOKENS)]))
        try:
            assert receive(link, 2) == TOKENS, "the engine does not wait for the compiler"
        finally:
            compiler.released.set()
        assert 0 < receive(link, 1) <= 4
        verifier.wait_idle()
        link.send(encode_frame([Open(3, [504, 253], DIGITS, 8)]))
        assert 0 < receive(link, 3) <= 4, "compiled again, since nothing is kept"
    engine_threads = {name for name in compiler.threads if "engine" in name}
    assert compiler.threads
    assert not engine_threads
