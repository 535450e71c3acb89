"""One verifier and one gateway as processes, shared by this folder, and their texts without an agent."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk

from edgedraft.local.processes import ManagedProcess, Supervisor
from loadtest.workloads import mixed_prompts
from tests.conftest import THOROUGH

KEY = "e2e-key"
TOKENS = 32
STREAMS = 8
VERIFIER = ("--threads", "1", "--dtype", "float32", "--no-prompt-lookup", "--kv-tokens", "16384")
STARTED_CHUNKS = 4


@dataclass(frozen=True)
class Case:
    """One request of the comparison."""

    prompt: str
    temperature: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """What a client received in one stream."""

    text: str
    finish: str | None
    completion_tokens: int
    mode: str
    accepted: int
    verifier_steps: int
    verifier_accepted: int


PROMPTS = mixed_prompts() if THOROUGH else mixed_prompts()[:12]  # two of each kind
CASES = [Case(prompt.text, t, 100 + i) for t in (0.0, 0.8) for i, prompt in enumerate(PROMPTS)]


@dataclass(frozen=True)
class Service:
    """A running gateway with its verifier, and a client for it."""

    stack: Supervisor
    verifier: ManagedProcess
    client: OpenAI
    model: str

    def stream(
        self, case: Case, edge: bool = True, tokens: int = TOKENS, endless: bool = True
    ) -> Stream[ChatCompletionChunk]:
        """One streamed request, `endless` to continue after an end of text."""
        return self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": case.prompt}],
            temperature=case.temperature,
            seed=case.seed,
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"edgedraft": {"edge": edge}, "ignore_eos": endless},
        )

    def ask(
        self,
        case: Case,
        edge: bool = True,
        tokens: int = TOKENS,
        endless: bool = False,
        started: threading.Event | None = None,
    ) -> Answer:
        """Send one streamed request and read it to its end; `started` is set after the first STARTED_CHUNKS chunks.

        Raises AssertionError if the stream ends without a finish reason.
        """
        stream = self.stream(case, edge, tokens, endless)
        text, finish, made, how = "", None, 0, {}
        for count, chunk in enumerate(stream, 1):
            if started and count == STARTED_CHUNKS:
                started.set()
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                finish = chunk.choices[0].finish_reason or finish
                how = (chunk.model_extra or {}).get("edgedraft") or how
            if chunk.usage:
                made = chunk.usage.completion_tokens
        assert finish, "the stream ended as it should"
        return Answer(text, finish, made, how["mode"], how["accepted"], how["verifier_steps"], how["verifier_accepted"])

    def ask_all(
        self, cases: Sequence[Case], edge: bool = True, streams: int = STREAMS, tokens: int = TOKENS
    ) -> list[Answer]:
        """Send all requests, `streams` at a time."""
        with ThreadPoolExecutor(streams) as pool:
            return list(pool.map(lambda case: self.ask(case, edge, tokens), cases))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("e2e-logs")
    with Supervisor(KEY, folder) as stack:
        verifier = stack.start_verifier(*VERIFIER)
        stack.start_gateway(
            verifier.address, flags=("--port", "0", "--database", f"sqlite+aiosqlite:///{folder}/gateway.db")
        )
        stack.wait_for_verifier()
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0, timeout=300)
        yield Service(stack, verifier, client, client.models.list().data[0].id)


@pytest.fixture(scope="session")
def alone(service: Service) -> dict[Case, Answer]:
    """Every case, datacenter-only."""
    answers = service.ask_all(CASES, edge=False)
    assert {answer.mode for answer in answers} == {"datacenter"}
    return dict(zip(CASES, answers, strict=True))


@pytest.fixture
def agent(service: Service) -> Iterator[ManagedProcess]:
    """An attached agent, detached again after the test."""
    child = service.stack.start_agent("--threads", "1", "--no-polite")
    yield child
    child.stop()
    service.stack.processes.remove(child)
