"""The verifier's server over real sockets with the demo target: handshake, admission, cancellation, limits, metrics."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edgedraft import wire
from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import (
    AgentChanged,
    Close,
    Commit,
    Draft,
    Hello,
    ModelCard,
    Open,
    Queued,
    Sampling,
    VerifierWelcome,
    encode_frame,
)
from loadtest.benchmarks.quick import verifier_counters
from tests.verifier.running_server import RunningVerifier, running
from verifier.engine.grammar import GrammarCache
from verifier.engine.transformers_engine import TransformersEngine
from verifier.model_card import build_model_card
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

GREEDY = Sampling(temperature=0)
TOKEN = "a-token"


@pytest.fixture(scope="module")
def verifier(demo_target: PackedModel) -> Iterator[RunningVerifier]:
    """Three sessions and one waiting. Every step costs the same, so what is verified does not depend on the machine."""
    settings = VerifierSettings.model_validate({"max_sessions": 3, "step_tokens": 64, "max_waiting": 1})
    card = build_model_card(settings, str(ensure_demo_model()), 8192)
    engine = TransformersEngine(demo_target, card.vocab_size, card.context_length, 3, GrammarCache(card))
    limits = SchedulerLimits(
        step_tokens=64, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, max_waiting=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCosts, "record", lambda costs, rows, seconds: None)
        with running(engine, limits, card, max_sessions=3, token=TOKEN) as server:
            yield server


@pytest.fixture(autouse=True)
def _no_session_left(verifier: RunningVerifier) -> Iterator[None]:
    """The sessions of a test's links have ended before the next test opens any."""
    yield
    verifier.wait_idle()


@pytest.fixture
def url(verifier: RunningVerifier) -> str:
    return verifier.url


def dial(url: str, token: str = TOKEN) -> ClientConnection:
    headers = {"Authorization": f"Bearer {token}"}
    return connect(f"{url}/v1/engine", additional_headers=headers, max_size=wire.MAX_FRAME)


@pytest.fixture
def link(url: str) -> Iterator[ClientConnection]:
    with dial(url) as connection:
        connection.send(encode_frame([Hello(wire.PROTOCOL, "test")]))
        (welcome,) = wire.decode_from_verifier(connection.recv())
        assert isinstance(welcome, VerifierWelcome)
        yield connection


def collect(link: ClientConnection, session: int) -> list[Commit]:
    commits: list[Commit] = []
    while not commits or commits[-1].finish is None:
        for message in wire.decode_from_verifier(link.recv(60)):
            assert isinstance(message, Commit)
            if message.session == session:
                commits.append(message)
    return commits


def tokens_of(commits: list[Commit]) -> list[int]:
    text: list[int] = []
    for commit in commits:
        assert commit.at == len(text), "commits follow each other without a gap"
        text += commit.tokens
    return text


def receive_until_closed(link: ClientConnection) -> None:
    while True:
        link.recv(30)


def close_reason(link: ClientConnection, frame: bytes | str) -> tuple[int, str]:
    link.send(frame)
    with pytest.raises(ConnectionClosed) as closed:
        receive_until_closed(link)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_the_welcome_carries_the_model_card(url: str) -> None:
    with dial(url) as connection:
        connection.send(encode_frame([Hello(wire.PROTOCOL)]))
        (welcome,) = wire.decode_from_verifier(connection.recv())
    assert isinstance(welcome, VerifierWelcome)
    card: ModelCard = welcome.card
    source = zlib.decompress(card.tokenizer)
    tokenizer = Tokenizer.from_str(source.decode())
    assert card.name == "smollm2-135m-instruct"
    assert card.fingerprint == fingerprint(source)
    assert card.vocab_size >= tokenizer.get_vocab_size()
    assert tokenizer.token_to_id("<|im_end|>") in card.eos
    assert "messages" in card.chat_template


def test_sessions_run_concurrently_and_drafts_change_the_steps_but_not_the_text(link: ClientConnection) -> None:
    prompts = {1: [504, 253, 260, 3581], 2: [1000, 28, 253], 3: [504, 253, 260, 3581]}
    link.send(encode_frame([Open(n, prompt, GREEDY, 24) for n, prompt in list(prompts.items())[:2]]))
    plain = {}
    commits: dict[int, list[Commit]] = {1: [], 2: []}
    while not all(c and c[-1].finish for c in commits.values()):
        for message in wire.decode_from_verifier(link.recv(60)):
            assert isinstance(message, Commit)
            commits[message.session].append(message)
    plain = {n: tokens_of(c) for n, c in commits.items()}
    assert [len(text) for text in plain.values()] == [24, 24]
    right = plain[1][:8]
    link.send(encode_frame([Open(3, prompts[3], GREEDY, 24), Draft(3, 1, 0, 1, right, list(range(8)), bytes(8))]))
    drafted = collect(link, 3)
    assert tokens_of(drafted) == plain[1]
    assert (drafted[0].nodes, drafted[0].accepted) == (8, 8)
    assert len(drafted) < 24


def test_grammars_bias_and_logprobs_over_the_wire(link: ClientConnection, url: str) -> None:
    with dial(url) as connection:
        connection.send(encode_frame([Hello(wire.PROTOCOL)]))
        (welcome,) = wire.decode_from_verifier(connection.recv())
        assert isinstance(welcome, VerifierWelcome)
    tokenizer = Tokenizer.from_str(zlib.decompress(welcome.card.tokenizer).decode())
    prompt = tokenizer.encode("The number of days in a week is").ids
    digits = replace(GREEDY, grammar="start: /[0-9]{3}/")
    link.send(
        encode_frame(
            [
                Open(1, prompt, replace(GREEDY, grammar="start: /(/"), 24),
                Open(2, prompt, digits, 24, logprobs=2),
                Draft(2, 1, 0, 1, [504, 253], [0, 0], bytes(2)),
                Open(3, prompt, replace(GREEDY, grammar="start: /[a-z]{2000}/"), 2000),
                Close(3),
                Open(4, prompt, replace(GREEDY, logit_bias={504: 100.0}), 2),
            ]
        )
    )
    commits: list[Commit] = []
    others: list[Any] = []
    while not commits or commits[-1].finish is None or len(others) < 2:
        for message in wire.decode_from_verifier(link.recv(60)):
            if isinstance(message, Commit) and message.session == 2:
                commits.append(message)
            elif not isinstance(message, Commit) or message.finish:
                others.append(message)
    text = tokens_of(commits)
    assert re.fullmatch("[0-9]{3}", tokenizer.decode(text))
    assert commits[-1].finish == "stop"
    entries = [entry for commit in commits for entry in commit.logprobs]
    assert [len(entry.tokens) for entry in entries] == [2] * len(text)
    (refused,) = [message for message in others if isinstance(message, Close)]
    assert (refused.session, refused.code) == (1, wire.CLOSE_REFUSED)
    assert "grammar" in refused.reason
    (biased,) = [message for message in others if isinstance(message, Commit)]
    assert (biased.session, biased.tokens[-1]) == (4, 504)
    link.send(encode_frame([Open(n, prompt, GREEDY, 1) for n in (5, 6, 7)]))
    assert {message.session for message in (collect(link, 7))} == {7}


def test_closing_a_session_admits_the_next_one(link: ClientConnection, url: str) -> None:
    link.send(encode_frame([Open(n, [504, 253], GREEDY, 2000) for n in (1, 2, 3)]))
    link.recv(60)
    link.send(encode_frame([Open(4, [504, 253], GREEDY, 4), Open(5, [504, 253], GREEDY, 4)]))
    answers: list[Any] = []
    while len(answers) < 2:
        answers += [m for m in wire.decode_from_verifier(link.recv(60)) if isinstance(m, Close | Queued)]
    assert answers[0] == Queued(4, 0)
    assert (answers[1].session, answers[1].code) == (5, wire.CLOSE_OVERLOADED)
    assert 1 <= answers[1].retry_after <= 60
    link.send(encode_frame([Close(2), Close(2), Close(77), AgentChanged(78, "agent")]))
    fourth: list[Commit] = []
    while not fourth or not fourth[-1].finish:
        fourth += [m for m in wire.decode_from_verifier(link.recv(60)) if isinstance(m, Commit) and m.session == 4]
    assert len(tokens_of(fourth)) == 4


def test_a_waiting_session_is_displaced_by_a_higher_priority(link: ClientConnection) -> None:
    link.send(encode_frame([Open(n, [504, 253], GREEDY, 2000) for n in (1, 2, 3)]))
    link.recv(60)
    link.send(encode_frame([Open(4, [504, 253], GREEDY, 4), Open(5, [504, 253], GREEDY, 4, priority=9)]))
    answers: list[Any] = []
    while len(answers) < 3:
        answers += [m for m in wire.decode_from_verifier(link.recv(60)) if isinstance(m, Close | Queued)]
    assert answers[:2] == [Queued(4, 0), Queued(5, 0)]
    assert (answers[2].session, answers[2].code) == (4, wire.CLOSE_OVERLOADED)
    assert answers[2].retry_after >= 1
    link.send(encode_frame([Close(2)]))
    fifth: list[Commit] = []
    while not fifth or not fifth[-1].finish:
        fifth += [m for m in wire.decode_from_verifier(link.recv(60)) if isinstance(m, Commit) and m.session == 5]
    assert len(tokens_of(fifth)) == 4


def test_invalid_requests_are_rejected_with_a_reason(link: ClientConnection) -> None:
    link.send(encode_frame([Open(1, [504], GREEDY, 10**6), Open(2, [10**6], GREEDY, 5)]))
    messages: list[Any] = []
    while len(messages) < 2:
        messages += wire.decode_from_verifier(link.recv(60))
    assert [(m.session, m.code) for m in messages] == [(1, wire.CLOSE_REFUSED), (2, wire.CLOSE_REFUSED)]
    assert "exceed" in messages[0].reason
    assert "vocabulary" in messages[1].reason


def test_the_sessions_of_a_lost_gateway_are_closed(url: str) -> None:
    with dial(url) as connection:
        connection.send(encode_frame([Hello(wire.PROTOCOL)]))
        connection.recv()
        connection.send(encode_frame([Open(n, [504], GREEDY, 4000) for n in (1, 2, 3)]))
        connection.recv(60)
    before = verifier_counters(url)["edgedraft_verifier_tokens_total"]
    with dial(url) as connection:
        connection.send(encode_frame([Hello(wire.PROTOCOL)]))
        connection.recv()
        connection.send(encode_frame([Open(4, [504], GREEDY, 2)]))
        messages: list[Any] = []
        while not any(isinstance(message, Commit) for message in messages):
            messages += wire.decode_from_verifier(connection.recv(60))
    assert not any(isinstance(message, Close) for message in messages)
    after = verifier_counters(url)["edgedraft_verifier_tokens_total"]
    assert after - before < 4000, "they were closed before they finished"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1 not msgpack", wire.BAD_FRAME),
        ("text", wire.BAD_FRAME),
        (msgspec.msgpack.encode([["no-such-message", 1]]), wire.BAD_FRAME),
        (encode_frame([Hello(wire.PROTOCOL)]), wire.BAD_FRAME),
        (msgspec.msgpack.encode([["draft", 1, 1, 0, 1, [-5], [0], b"\0"]]), wire.BAD_FRAME),
    ],
    ids=["rubbish", "text", "unknown", "second-hello", "negative-token"],
)
def test_bad_frames_close_the_link_with_a_reason(link: ClientConnection, frame: bytes | str, code: int) -> None:
    got, reason = close_reason(link, frame)
    assert got == code
    assert reason


def test_another_protocol_version_closes_the_link(url: str) -> None:
    with dial(url) as connection:
        code, reason = close_reason(connection, encode_frame([Hello(99)]))
    assert code == wire.VERSION
    assert "99" in reason


def test_a_wrong_token_is_rejected(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(url, "another-token")
    assert refused.value.response.status_code == 401
    assert b"another token" in (refused.value.response.body or b"")


def test_invalid_drafts_do_not_affect_the_text(link: ClientConnection) -> None:
    link.send(
        encode_frame(
            [
                Open(1, [504, 253, 260], GREEDY, 12, agent="agent"),
                Draft(1, 1, 0, 1, [49152], [0], b"\0"),  # outside the vocabulary
                Draft(1, 1, 0, 1, [5], [7], b"\0"),  # a parent that does not exist
                Draft(1, 1, 9, 1, [5], [0], b"\0"),  # an epoch that starts past the text
                Draft(9, 1, 0, 1, [5], [0], b"\0"),  # unknown session
            ]
        )
    )
    assert len(tokens_of(collect(link, 1))) == 12


def many_grammars(count: int) -> list[Open]:
    return [
        Open(n, [504], msgspec.structs.replace(GREEDY, grammar=f"start: /a{{{n},{9000 + n}}}/"), 4)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    "messages",
    [many_grammars(9), [*many_grammars(1), *[AgentChanged(1, "agent")] * 300]],
    ids=["too many sessions", "too many messages of one session"],
)
def test_messages_held_during_grammar_compilation_are_bounded(
    link: ClientConnection, messages: list[Open | AgentChanged]
) -> None:
    assert close_reason(link, encode_frame(messages))[0] == wire.TOO_MANY


def test_drafts_past_that_bound_are_dropped(link: ClientConnection) -> None:
    opened = replace(many_grammars(1)[0], sampling=replace(GREEDY, grammar="start: /a{3}/"))
    link.send(encode_frame([opened, *[Draft(1, 1, 0, n, [5], [0], b"\0") for n in range(1, 600)]]))
    assert collect(link, 1)[-1].finish == "stop"


def test_metrics_count_steps_and_cpu(url: str, link: ClientConnection) -> None:
    before = verifier_counters(url)
    link.send(encode_frame([Open(1, [504, 253], GREEDY, 6)]))
    collect(link, 1)
    after = verifier_counters(url)
    assert after["edgedraft_verifier_tokens_total"] - before["edgedraft_verifier_tokens_total"] == 6
    assert after["edgedraft_verifier_steps_total"] - before["edgedraft_verifier_steps_total"] == 6
    assert after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]
