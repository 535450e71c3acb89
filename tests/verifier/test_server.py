"""The verifier as a process, over real sockets, with the demo target: greetings, refusals, cancel, metrics."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from edgedraft import wire
from edgedraft.local.processes import ManagedProcess
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
    encode,
)
from loadtest.quick import verifier_counters

GREEDY = Sampling(temperature=0)
TOKEN = "a-token"
SMALL = ("--step-tokens", "64")


@pytest.fixture(scope="module")
def verifier() -> Iterator[ManagedProcess]:
    child = ManagedProcess(
        "verifier", "--port", "0", "--verifier-token", TOKEN, "--max-sessions", "3", "--max-waiting", "1", *SMALL
    )
    child.wait_ready(120)
    yield child
    assert child.stop() == 0, "it ends when told to, not by being killed"


@pytest.fixture(scope="module")
def url(verifier: ManagedProcess) -> str:
    return verifier.address


def dial(url: str, token: str = TOKEN) -> ClientConnection:
    headers = {"Authorization": f"Bearer {token}"}
    return connect(f"{url}/v1/engine", additional_headers=headers, max_size=wire.MAX_FRAME)


@pytest.fixture
def link(url: str) -> Iterator[ClientConnection]:
    with dial(url) as connection:
        connection.send(encode([Hello(wire.PROTOCOL, "test")]))
        (welcome,) = wire.from_verifier(connection.recv())
        assert isinstance(welcome, VerifierWelcome)
        yield connection


def status(url: str, path: str) -> int:
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://") + path, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def collect(link: ClientConnection, session: int) -> list[Commit]:
    commits: list[Commit] = []
    while not commits or commits[-1].finish is None:
        for message in wire.from_verifier(link.recv(60)):
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


def drain(link: ClientConnection) -> None:
    while True:
        link.recv(30)


def closing(link: ClientConnection, frame: bytes | str) -> tuple[int, str]:
    link.send(frame)
    with pytest.raises(ConnectionClosed) as closed:
        drain(link)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_the_card_tells_a_gateway_all_it_needs(url: str) -> None:
    with dial(url) as connection:
        connection.send(encode([Hello(wire.PROTOCOL)]))
        (welcome,) = wire.from_verifier(connection.recv())
    assert isinstance(welcome, VerifierWelcome)
    card: ModelCard = welcome.card
    source = zlib.decompress(card.tokenizer)
    tokenizer = Tokenizer.from_str(source.decode())
    assert card.name == "smollm2-135m-instruct"
    assert card.fingerprint == fingerprint(source)
    assert card.vocab_size >= tokenizer.get_vocab_size()
    assert tokenizer.token_to_id("<|im_end|>") in card.eos
    assert "messages" in card.chat_template


def test_sessions_run_side_by_side_and_drafts_change_only_the_steps(link: ClientConnection) -> None:
    prompts = {1: [504, 253, 260, 3581], 2: [1000, 28, 253], 3: [504, 253, 260, 3581]}
    link.send(encode([Open(n, prompt, GREEDY, 24) for n, prompt in list(prompts.items())[:2]]))
    plain = {}
    commits: dict[int, list[Commit]] = {1: [], 2: []}
    while not all(c and c[-1].finish for c in commits.values()):
        for message in wire.from_verifier(link.recv(60)):
            assert isinstance(message, Commit)
            commits[message.session].append(message)
    plain = {n: tokens_of(c) for n, c in commits.items()}
    assert [len(text) for text in plain.values()] == [24, 24]
    right = plain[1][:8]
    link.send(encode([Open(3, prompts[3], GREEDY, 24), Draft(3, 1, 0, 1, right, list(range(8)), bytes(8))]))
    drafted = collect(link, 3)
    assert tokens_of(drafted) == plain[1]
    assert (drafted[0].nodes, drafted[0].accepted) == (8, 8)
    assert len(drafted) < 24


def test_grammars_bias_and_log_probabilities_over_the_wire(link: ClientConnection, url: str) -> None:
    with dial(url) as connection:
        connection.send(encode([Hello(wire.PROTOCOL)]))
        (welcome,) = wire.from_verifier(connection.recv())
        assert isinstance(welcome, VerifierWelcome)
    tokenizer = Tokenizer.from_str(zlib.decompress(welcome.card.tokenizer).decode())
    prompt = tokenizer.encode("The number of days in a week is").ids
    digits = replace(GREEDY, grammar="start: /[0-9]{3}/")
    link.send(
        encode(
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
        for message in wire.from_verifier(link.recv(60)):
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
    link.send(encode([Open(n, prompt, GREEDY, 1) for n in (5, 6, 7)]))
    assert {message.session for message in (collect(link, 7))} == {7}


def test_a_cancelled_session_ends_and_makes_room(link: ClientConnection, url: str) -> None:
    link.send(encode([Open(n, [504, 253], GREEDY, 2000) for n in (1, 2, 3)]))
    link.recv(60)
    link.send(encode([Open(4, [504, 253], GREEDY, 4), Open(5, [504, 253], GREEDY, 4)]))
    answers: list[Any] = []
    while len(answers) < 2:
        answers += [m for m in wire.from_verifier(link.recv(60)) if isinstance(m, Close | Queued)]
    assert answers[0] == Queued(4, 0)
    assert (answers[1].session, answers[1].code) == (5, wire.CLOSE_OVERLOADED)
    assert 1 <= answers[1].retry_after <= 60
    link.send(encode([Close(2), Close(2), Close(77), AgentChanged(78, "desk")]))
    fourth: list[Commit] = []
    while not fourth or not fourth[-1].finish:
        fourth += [m for m in wire.from_verifier(link.recv(60)) if isinstance(m, Commit) and m.session == 4]
    assert len(tokens_of(fourth)) == 4


def test_who_waits_gives_way_to_a_higher_priority_and_is_told(link: ClientConnection) -> None:
    link.send(encode([Open(n, [504, 253], GREEDY, 2000) for n in (1, 2, 3)]))
    link.recv(60)
    link.send(encode([Open(4, [504, 253], GREEDY, 4), Open(5, [504, 253], GREEDY, 4, priority=9)]))
    answers: list[Any] = []
    while len(answers) < 3:
        answers += [m for m in wire.from_verifier(link.recv(60)) if isinstance(m, Close | Queued)]
    assert answers[:2] == [Queued(4, 0), Queued(5, 0)]
    assert (answers[2].session, answers[2].code) == (4, wire.CLOSE_OVERLOADED)
    assert answers[2].retry_after >= 1
    link.send(encode([Close(2)]))
    fifth: list[Commit] = []
    while not fifth or not fifth[-1].finish:
        fifth += [m for m in wire.from_verifier(link.recv(60)) if isinstance(m, Commit) and m.session == 5]
    assert len(tokens_of(fifth)) == 4


def test_what_can_never_be_served_is_refused_with_the_reason(link: ClientConnection) -> None:
    link.send(encode([Open(1, [504], GREEDY, 10**6), Open(2, [10**6], GREEDY, 5)]))
    messages: list[Any] = []
    while len(messages) < 2:
        messages += wire.from_verifier(link.recv(60))
    assert [(m.session, m.code) for m in messages] == [(1, wire.CLOSE_REFUSED), (2, wire.CLOSE_REFUSED)]
    assert "exceed" in messages[0].reason
    assert "vocabulary" in messages[1].reason


def test_a_lost_gateway_frees_its_sessions(url: str) -> None:
    with dial(url) as connection:
        connection.send(encode([Hello(wire.PROTOCOL)]))
        connection.recv()
        connection.send(encode([Open(n, [504], GREEDY, 4000) for n in (1, 2, 3)]))
        connection.recv(60)
    with dial(url) as connection:
        connection.send(encode([Hello(wire.PROTOCOL)]))
        connection.recv()
        for attempt in range(50):
            connection.send(encode([Open(attempt + 1, [504], GREEDY, 2)]))
            (message,) = wire.from_verifier(connection.recv(60))[:1]
            if isinstance(message, Commit):
                return
    raise AssertionError("the sessions of the lost gateway still hold their places")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1 not msgpack", wire.BAD_FRAME),
        ("text", wire.BAD_FRAME),
        (msgspec.msgpack.encode([["no-such-message", 1]]), wire.BAD_FRAME),
        (encode([Hello(wire.PROTOCOL)]), wire.BAD_FRAME),
        (msgspec.msgpack.encode([["draft", 1, 1, 0, 1, [-5], [0], b"\0"]]), wire.BAD_FRAME),
    ],
    ids=["rubbish", "text", "unknown", "second-hello", "negative-token"],
)
def test_bad_frames_close_the_link_with_a_reason(link: ClientConnection, frame: bytes | str, code: int) -> None:
    got, reason = closing(link, frame)
    assert got == code
    assert reason


def test_another_protocol_version_is_told_so(url: str) -> None:
    with dial(url) as connection:
        code, reason = closing(connection, encode([Hello(99)]))
    assert code == wire.VERSION
    assert "99" in reason


def test_a_wrong_token_is_turned_away(url: str) -> None:
    with dial(url, "guess") as connection, pytest.raises(ConnectionClosed) as closed:
        connection.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == wire.UNAUTHORIZED


def test_drafts_that_break_the_rules_disturb_nobody(link: ClientConnection) -> None:
    link.send(
        encode(
            [
                Open(1, [504, 253, 260], GREEDY, 12, agent="desk"),
                Draft(1, 1, 0, 1, [49152], [0], b"\0"),  # outside the vocabulary
                Draft(1, 1, 0, 1, [5], [7], b"\0"),  # a parent that does not exist
                Draft(1, 1, 9, 1, [5], [0], b"\0"),  # planted past the text
                Draft(9, 1, 0, 1, [5], [0], b"\0"),  # nobody's session
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
    [many_grammars(5), [*many_grammars(1), *[AgentChanged(1, "desk")] * 300]],
    ids=["more sessions than it takes", "more messages than a session has"],
)
def test_what_waits_for_a_grammar_is_bounded(link: ClientConnection, messages: list[Open | AgentChanged]) -> None:
    assert closing(link, encode(messages))[0] == wire.TOO_MANY


def test_drafts_past_that_bound_are_dropped(link: ClientConnection) -> None:
    opened = replace(many_grammars(1)[0], sampling=replace(GREEDY, grammar="start: /a{3}/"))
    link.send(encode([opened, *[Draft(1, 1, 0, n, [5], [0], b"\0") for n in range(1, 600)]]))
    assert collect(link, 1)[-1].finish == "stop"


def test_metrics_count_steps_and_cpu(url: str, link: ClientConnection) -> None:
    before = verifier_counters(url)
    link.send(encode([Open(1, [504, 253], GREEDY, 6)]))
    collect(link, 1)
    after = verifier_counters(url)
    assert after["edgedraft_verifier_tokens_total"] - before["edgedraft_verifier_tokens_total"] == 6
    assert after["edgedraft_verifier_steps_total"] - before["edgedraft_verifier_steps_total"] == 6
    assert after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]


def test_told_to_end_it_finishes_what_runs_and_begins_nothing(
    link: ClientConnection, verifier: ManagedProcess, url: str
) -> None:
    """The last test here: it ends the verifier that all have shared."""
    link.send(encode([Open(1, [504, 253], GREEDY, 60)]))
    at = sum(len(message.tokens) for message in wire.from_verifier(link.recv(60)) if isinstance(message, Commit))
    verifier.popen.terminate()
    while status(url, "/readyz") == 200:
        pass
    assert (status(url, "/readyz"), status(url, "/healthz")) == (503, 200)
    link.send(encode([Open(2, [504, 253], GREEDY, 4)]))
    commits, refused = [], []
    while not commits or not commits[-1].finish:
        for message in wire.from_verifier(link.recv(60)):
            (commits if isinstance(message, Commit) else refused).append(message)
    assert at + sum(len(commit.tokens) for commit in commits) == 60
    assert [(message.session, message.code) for message in refused] == [(2, wire.CLOSE_LEAVING)]
    assert "going" in refused[0].reason
    assert verifier.popen.wait(10) == 0
