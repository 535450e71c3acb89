"""Drafting with a llama-server changes no text, and its drafts are taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedraft.local.processes import ManagedProcess
from loadtest.drafts.gguf_file import write_draft_gguf
from loadtest.drafts.llama_server import LlamaServerProcess, llama_server
from tests.e2e.conftest import CASES, Answer, Case, Service

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SOME = CASES[::3]  # half of each temperature
TRIES = 10


@pytest.fixture
def model_server(tmp_path: Path) -> Iterator[LlamaServerProcess]:
    with llama_server(write_draft_gguf(tmp_path, "q8_0"), slots=4, kv_tokens=8192) as server:
        yield server


@pytest.fixture
def server_agent(service: Service, model_server: LlamaServerProcess) -> Iterator[ManagedProcess]:
    child = service.stack.start_agent("--draft-url", model_server.url, "--no-prompt-lookup", "--no-polite")
    yield child
    child.stop()
    service.stack.processes.remove(child)


def test_its_drafts_are_taken_and_change_no_text(
    service: Service, alone: dict[Case, Answer], server_agent: ManagedProcess, model_server: LlamaServerProcess
) -> None:
    answers = dict(zip(SOME, service.ask_all(SOME, streams=2), strict=True))
    assert [answers[case].text for case in SOME] == [alone[case].text for case in SOME]
    assert {answer.mode for answer in answers.values()} == {"edge"}
    for temperature in (0.0, 0.8):
        own = [case for case in SOME if case.temperature == temperature]
        accepted = sum(answers[case].accepted for case in own)
        for case in own * TRIES:  # on a busy machine drafts may come too late for every step of a short text
            if accepted:
                break
            accepted = service.ask(case).accepted
        assert accepted, f"at temperature {temperature}"
    model_server.kill()
    without = service.ask_all(SOME[:2], streams=1)
    assert [answer.text for answer in without] == [alone[case].text for case in SOME[:2]]
