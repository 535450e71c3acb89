"""The verifier as a process: it starts, answers its health endpoints, and drains on SIGTERM."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from edgedraft import wire
from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.local.processes import ManagedProcess
from edgedraft.wire import Close, Commit, Hello, Open, Sampling, encode_frame
from tests.support.tiny_llama import tiny_llama

GREEDY = Sampling(temperature=0)
TOKENS = 1500  # so many that the session is still open when the last message arrives
VOCAB_SIZE = 49152  # of the demo model's tokenizer


@pytest.fixture
def verifier(tmp_path: Path) -> Iterator[ManagedProcess]:
    """A process with a tiny random model, which is ready sooner than the demo target."""
    tiny_llama(vocab_size=VOCAB_SIZE).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ensure_demo_model() / file, tmp_path)
    limits = ("--context-length", "2048", "--drain-grace", "200", "--no-prompt-lookup")
    child = ManagedProcess("verifier", "--port", "0", "--model", str(tmp_path), *limits)
    child.wait_ready(200)
    yield child
    child.stop()


def status(url: str, path: str) -> int:
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://") + path, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_sigterm_finishes_open_sessions_and_rejects_new_ones(verifier: ManagedProcess) -> None:
    url = verifier.address
    assert (status(url, "/readyz"), status(url, "/healthz")) == (200, 200)
    with connect(f"{url}/v1/engine", max_size=wire.MAX_FRAME) as link:
        link.send(encode_frame([Hello(wire.PROTOCOL)]))
        link.recv(60)
        link.send(encode_frame([Open(1, [504, 253], GREEDY, TOKENS)]))
        commits: list[Commit] = []
        commits += [message for message in wire.decode_from_verifier(link.recv(60)) if isinstance(message, Commit)]
        verifier.popen.terminate()
        while status(url, "/readyz") == 200:
            pass
        assert (status(url, "/readyz"), status(url, "/healthz")) == (503, 200)
        link.send(encode_frame([Open(2, [504, 253], GREEDY, 4)]))
        rejected: list[Close] = []
        while not commits[-1].finish:
            for message in wire.decode_from_verifier(link.recv(60)):
                if isinstance(message, Commit):
                    commits.append(message)
                elif isinstance(message, Close):
                    rejected.append(message)
    assert sum(len(commit.tokens) for commit in commits) == TOKENS
    assert [(message.session, message.code) for message in rejected] == [(2, wire.CLOSE_LEAVING)]
    assert "going" in rejected[0].reason
    assert verifier.popen.wait(60) == 0
