"""Errors for vLLM arguments that are not accepted."""

from __future__ import annotations

import pytest

from tests.verifier.engine.test_engine_choice import startup_error

pytest.importorskip("vllm", reason="runs in the environment of `make test-vllm`")

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--", "--max-model-len", "512"), "--context-length"),
        (("--", "--max-num-seqs", "3"), "--max-sessions"),
        (
            ("--", "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'),
            "that part is EdgeDraft's",
        ),
        (("--", "--async-scheduling"), "that part is EdgeDraft's"),
        (("--device", "mps"), "built for cpu"),
        (("--model", "/nowhere/at/all"), "cannot serve /nowhere/at/all"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(flags: tuple[str, ...], message: str) -> None:
    assert message in startup_error("--engine", "vllm", *flags)
