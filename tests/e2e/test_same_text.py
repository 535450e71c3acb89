"""Whatever happens to the agent, the client gets the text of datacenter-only decoding."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from openai import OpenAI

from edgedraft.local.processes import ManagedProcess, Supervisor
from loadtest.benchmarks.quick import verifier_counters
from tests.e2e.conftest import CASES, KEY, Answer, Case, Service
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

FEW = CASES[::4]
LONGER = 64  # tokens, in which a text begins to repeat itself


def test_edge_text_is_datacenter_text(service: Service, alone: dict[Case, Answer], agent: ManagedProcess) -> None:
    answers = dict(zip(CASES, service.ask_all(CASES), strict=True))
    differing = [case for case in CASES if answers[case].text != alone[case].text]
    assert not differing
    assert all(answers[case].completion_tokens == alone[case].completion_tokens for case in CASES)
    assert all(answers[case].finish == alone[case].finish for case in CASES)
    assert {answer.mode for answer in answers.values()} <= {"edge", "mixed"}
    accepted = sum(answer.accepted for answer in answers.values())
    assert accepted > len(CASES), "drafts were really taken; how many pay off is the benchmark's to tell"


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_an_agent_lost_in_mid_stream_changes_nothing(
    service: Service, alone: dict[Case, Answer], agent: ManagedProcess, blow: signal.Signals
) -> None:
    got: list[Answer] = []
    # Few at once: with many, this machine's verifier finds plain decoding cheaper than checking drafts.
    clients = threading.Thread(target=lambda: got.extend(service.ask_all(FEW, streams=2)))
    before = accepted_drafts(service)
    clients.start()
    wait_until(lambda: accepted_drafts(service) >= before + 3 or not clients.is_alive(), 240)
    assert clients.is_alive(), "the streams ended before the agent had drafted anything of use"
    agent.popen.send_signal(blow)
    clients.join(240)
    assert not clients.is_alive(), "no stream is stuck"
    assert [answer.text for answer in got] == [alone[case].text for case in FEW]
    assert "mixed" in {answer.mode for answer in got} or blow == signal.SIGSTOP


def test_an_agent_that_comes_in_mid_stream_joins(service: Service, alone: dict[Case, Answer]) -> None:
    case = next(case for case in CASES if alone[case].finish == "length")
    before = accepted_drafts(service)
    text, accepted = "", 0.0
    child = service.stack.launch("attach", service.stack.url, "--threads", "1", "--no-polite")
    try:
        # The agent is still loading; the client has heard enough once the agent's drafts have been taken.
        with service.stream(case, tokens=1600) as stream:
            for count, chunk in enumerate(stream):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                if count % 8 == 7:
                    after = accepted_drafts(service)
                    accepted = after - before
                if accepted >= 5:
                    break
        assert accepted >= 5
        assert text.startswith(alone[case].text)
    finally:
        child.stop()
        service.stack.processes.remove(child)


def test_without_any_agent_the_datacenter_answers(service: Service, alone: dict[Case, Answer]) -> None:
    answer = service.ask(CASES[0])
    assert (answer.text, answer.mode) == (alone[CASES[0]].text, "datacenter")


def test_the_verifiers_own_drafts_change_the_steps_and_no_token(service: Service, tmp_path: Path) -> None:
    cases = CASES[:6]
    plain = service.ask_all(cases, edge=False, tokens=LONGER)
    with Supervisor(KEY, tmp_path) as stack:
        verifier = stack.start_verifier("--threads", "1", "--dtype", "float32")
        stack.start_gateway(
            verifier.address, flags=("--port", "0", "--database", f"sqlite+aiosqlite:///{tmp_path}/gateway.db")
        )
        stack.wait_for_verifier()
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0, timeout=300)
        drafted = Service(stack, verifier, client, service.model).ask_all(cases, tokens=LONGER)
    assert [answer.text for answer in drafted] == [answer.text for answer in plain]
    assert {answer.mode for answer in drafted} == {"datacenter"}
    assert not any(answer.accepted for answer in drafted)
    assert sum(answer.verifier_accepted for answer in drafted) > 10
    assert sum(answer.verifier_steps for answer in drafted) < sum(answer.verifier_steps for answer in plain) - 10


def accepted_drafts(service: Service) -> float:
    return verifier_counters(service.verifier.address)["edgedraft_verifier_draft_accepted_total"]
