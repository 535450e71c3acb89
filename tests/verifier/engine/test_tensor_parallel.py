"""A verifier of two ranks: real processes over loopback, with the text of a single rank; none outlives the other."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from transformers import GPT2Config, LlamaConfig, Phi3Config
from websockets.sync.client import ClientConnection, connect

from edgedraft import wire
from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.local.processes import ManagedProcess
from edgedraft.wire import Close, Commit, Draft, Hello, Open, Sampling, encode_frame
from tests.conftest import THOROUGH
from tests.support.tiny_llama import tiny_llama
from verifier.engine.tensor_parallel import check_shardable

VOCAB = 49155  # does not divide by two
TOKENS = 60
LENGTHS = {1: 1500, 2: 300, 3: 100, 4: 40}  # of prompts; the first makes a call of more than one broadcast
KV_TOKENS = 2048
PROMPTS = {key: random.Random(key).choices(range(VOCAB), k=length) for key, length in LENGTHS.items()}
SAMPLINGS = {
    1: Sampling(temperature=0),
    2: Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=7),
    3: Sampling(temperature=0),
    4: Sampling(temperature=1.0, min_p=0.01, seed=8),
}
CANCELLED = 5
AGAIN = 6

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a verifier over a random Llama whose heads divide by two, with the demo model's tokenizer."""
    folder = tmp_path_factory.mktemp("even-llama")
    tiny_llama(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=112,
        num_attention_heads=4,
        max_position_embeddings=KV_TOKENS,
    ).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ensure_demo_model() / file, folder)
    limits = ("--kv-tokens", str(KV_TOKENS), "--step-tokens", "1600", "--dtype", "float32")
    return ["verifier", "--port", "0", "--model", str(folder), *limits]


@dataclass
class Session:
    """What came of one session, and the nodes of its drafts that were checked and taken."""

    text: list[int] = field(default_factory=list)
    checked: int = 0
    accepted: int = 0
    finished: bool = False


class Gateway:
    """A link to a verifier; the sessions on it may be drafted for."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self.sessions: dict[int, Session] = {}
        self._drafted: dict[int, list[int]] = {}

    def send(self, *messages: Hello | Open | Draft | Close) -> None:
        self._link.send(encode_frame(list(messages)))

    def open(self, key: int, like: int, tokens: int = TOKENS, drafted: list[int] | None = None) -> None:
        """With a text to draft from, each draft is a tree of its next six tokens, a wrong one before each."""
        self.sessions[key] = Session()
        messages: list[Open | Draft] = [Open(key, PROMPTS[like], SAMPLINGS[like], tokens)]
        if drafted is not None:
            self._drafted[key] = drafted
            messages.append(self._draft(key))
        self.send(*messages)

    def cancel(self, key: int) -> None:
        self.send(Close(key))
        self.sessions[key].finished = True

    def receive(self) -> None:
        for message in wire.decode_from_verifier(self._link.recv(60)):
            assert not isinstance(message, Close), message.reason
            if not isinstance(message, Commit):
                continue
            session = self.sessions[message.session]
            assert message.at == len(session.text)
            session.text += message.tokens
            session.checked += message.nodes
            session.accepted += message.accepted
            session.finished |= message.finish is not None
            if message.session in self._drafted and not session.finished:
                self.send(self._draft(message.session))

    def finish(self) -> dict[int, list[int]]:
        while not all(session.finished for session in self.sessions.values()):
            self.receive()
        return {key: session.text for key, session in self.sessions.items()}

    def _draft(self, key: int) -> Draft:
        at = len(self.sessions[key].text)
        right = self._drafted[key][at : at + 6] or [0]
        tokens = [token for truth in right for token in ((truth + 1) % VOCAB, truth)]
        parents = [2 * depth for depth in range(len(right)) for _ in range(2)]
        return Draft(key, 1 + at, at, 1, tokens, parents, bytes(len(tokens)))


@contextmanager
def dial(url: str) -> Iterator[Gateway]:
    with connect(f"{url}/v1/engine", max_size=wire.MAX_FRAME) as link:
        link.send(encode_frame([Hello(wire.PROTOCOL)]))
        link.recv(60)
        yield Gateway(link)


@pytest.fixture(scope="module")
def expected(flags: list[str]) -> dict[int, list[int]]:
    """The texts of one process, one session at a time, nothing drafted."""
    child = ManagedProcess(*flags)
    try:
        with dial(child.wait_ready(120)) as gateway:
            for key in PROMPTS:
                gateway.open(key, like=key)
                gateway.finish()
            return gateway.finish()
    finally:
        child.stop()


@contextmanager
def torchrun(*words: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The command under torchrun on two CPU ranks: its URL and its processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launch, "-m", "edgedraft", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert process.stdout
    url = next((line.split()[-1] for line in process.stdout if line.startswith("edgedraft verifier ready")), "")
    try:
        yield url, psutil.Process(process.pid).children(recursive=True)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def two_ranks(flags: list[str]) -> Iterator[tuple[str, ManagedProcess, ManagedProcess]]:
    """RankGroup that nobody watches over: the URL, rank 0 and rank 1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        ManagedProcess(*flags, env={**place, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}) for rank in "01"
    ]
    try:
        yield ranks[0].wait_ready(120), ranks[0], ranks[1]
    finally:
        for child in ranks:
            child.popen.kill()


def test_two_ranks_under_torchrun_commit_the_text_of_one(flags: list[str], expected: dict[int, list[int]]) -> None:
    with torchrun(*flags) as (url, ranks), dial(url) as gateway:
        gateway.open(1, like=1, drafted=expected[1])
        gateway.open(2, like=2, drafted=expected[2])
        gateway.open(3, like=3, drafted=[0] * TOKENS)
        gateway.open(4, like=4)
        gateway.open(CANCELLED, like=4, tokens=500)
        while not gateway.sessions[CANCELLED].text:
            gateway.receive()
        gateway.cancel(CANCELLED)
        while not all(gateway.sessions[key].finished for key in PROMPTS):
            gateway.receive()
        gateway.open(AGAIN, like=2)
        texts = gateway.finish()
        children = [rank for rank in ranks if rank.is_running()]
    assert {key: texts[key] for key in PROMPTS} == expected
    assert texts[AGAIN] == expected[2]
    assert all(0 < gateway.sessions[key].accepted < gateway.sessions[key].checked for key in (1, 2)), "drafts counted"
    assert sum(LENGTHS.values()) + TOKENS * len(LENGTHS) > KV_TOKENS, "the cache was too small for all of them at once"
    assert children
    assert not psutil.wait_procs(children, 60)[1]


def test_told_to_end_rank_0_takes_the_other_with_it(two_ranks: tuple[str, ManagedProcess, ManagedProcess]) -> None:
    _, leader, follower = two_ranks
    follower.popen.terminate()  # torchrun tells all of them
    assert leader.stop() == 0, "as a verifier of one process does"
    assert follower.popen.wait(60) == 0


@pytest.mark.parametrize("busy", [True, *([False] if THOROUGH else [])], ids=lambda busy: "busy" if busy else "idle")
def test_who_loses_a_rank_ends(two_ranks: tuple[str, ManagedProcess, ManagedProcess], busy: bool) -> None:
    url, leader, follower = two_ranks
    with dial(url) as gateway:
        gateway.open(1, like=4, tokens=300)
        gateway.receive()
        if not busy:
            gateway.finish()
        follower.popen.kill()
    assert leader.popen.wait(60) == 1


def test_a_follower_that_loses_rank_0_ends(two_ranks: tuple[str, ManagedProcess, ManagedProcess]) -> None:
    _, leader, follower = two_ranks
    leader.popen.kill()
    assert follower.popen.wait(60) == 1


def test_heads_that_do_not_divide_are_refused() -> None:
    config = LlamaConfig(hidden_size=72, num_attention_heads=9, num_key_value_heads=3)
    check_shardable(config, 3)
    with pytest.raises(ValueError, match="9 attention and 3 key heads do not divide by 2 ranks: it runs on 1 or 3"):
        check_shardable(config, 2)


def test_heads_that_are_not_split_need_not_divide() -> None:
    check_shardable(Phi3Config(hidden_size=72, num_attention_heads=9, num_key_value_heads=3), 2)


def test_a_model_without_a_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor-parallel plan for gpt2"):
        check_shardable(GPT2Config(), 2)


def test_ranks_that_were_not_started_together_say_so(flags: list[str], tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        child = ManagedProcess(*flags, env={"WORLD_SIZE": "2", "RANK": "1"}, log=stderr)
        assert child.popen.wait(60) == 1
        stderr.seek(0)
        assert "no LOCAL_RANK and no MASTER_ADDR and no MASTER_PORT: use torchrun" in stderr.read()
