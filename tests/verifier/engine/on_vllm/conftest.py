"""The vLLM engine with the demo target, loaded once, and the embedded engine with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import ModelCard, Sampling
from verifier.engine.grammar import GrammarCache
from verifier.engine.interface import Engine, Request, ScheduledSession, StepResult
from verifier.engine.transformers_engine import TransformersEngine
from verifier.settings import VerifierSettings

pytest.importorskip("vllm", reason="runs in the environment of `make test-vllm`")

KV_TOKENS = 1280  # ten of vLLM's blocks
SESSIONS = 8
NODES = 8


@dataclass(frozen=True)
class Both:
    """The engine under test, and the reference."""

    vllm: Engine
    embedded: Engine
    card: ModelCard


@pytest.fixture(scope="session")
def both(demo_target: PackedModel) -> Iterator[Both]:
    from verifier.engine.on_vllm.start import load

    settings = VerifierSettings.model_validate(
        {
            "engine": "vllm",
            "engine_args": "--enforce-eager",
            "dtype": "float32",
            "threads": 1,
            "kv_tokens": KV_TOKENS,
            "max_sessions": SESSIONS,
            "verify_nodes": NODES,
        }
    )
    loaded = load(settings)
    assert loaded
    engine, card = loaded
    yield Both(engine, TransformersEngine(demo_target, card.vocab_size, 2048, 64, GrammarCache(card)), card)
    engine.shut_down()


def finish(
    engine: Engine,
    requests: Sequence[Request],
    draft: Callable[[int, list[int]], DraftSlice] = lambda key, text: EMPTY_DRAFT,
) -> tuple[dict[int, list[int]], list[StepResult]]:
    """Run all requests to their end, up to 12 uncomputed tokens of each per step; returns all outputs and results."""
    texts = {request.session: list(request.committed) for request in requests}
    for request in requests:
        engine.open(request)
    left, seen = list(texts), []
    for _ in range(2000):
        for made in engine.step([ScheduledSession(key, 12, draft(key, texts[key])) for key in left]):
            texts[made.session].extend(made.tokens)
            seen.append(made)
            if made.finish:
                left.remove(made.session)
                engine.close(made.session)
        if not left:
            return texts, seen
    raise AssertionError("no end")


def request(key: int, prompt: Sequence[int], sampling: Sampling, tokens: int = 24, **more: object) -> Request:
    return Request(key, tuple(prompt), sampling, tokens, frozenset(), **more)  # type: ignore[arg-type]
