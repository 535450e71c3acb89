"""Processes may start in any order, and a rejected agent reports the reason."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from openai import OpenAI
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from edgedraft.local.processes import Supervisor
from tests.e2e.conftest import KEY, Service
from tests.support.tiny_llama import tiny_llama

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ATTACH = (sys.executable, "-m", "edgedraft.cli", "attach")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_gateway_started_before_its_verifier_serves_once_that_is_there(tmp_path: Path) -> None:
    port = free_port()
    with Supervisor(KEY, tmp_path) as stack:
        flags = ("--port", "0", "--open-timeout", "200", "--database", f"sqlite+aiosqlite:///{tmp_path}/g.db")
        stack.start_gateway(f"ws://127.0.0.1:{port}", flags=flags)
        assert (status(f"{stack.url}/healthz"), status(f"{stack.url}/readyz")) == (200, 503)
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0, timeout=240)
        texts: list[str | None] = []

        def ask() -> None:
            answer = client.chat.completions.create(
                model="smollm2-135m-instruct",
                messages=[{"role": "user", "content": "Say hello."}],
                max_tokens=8,
                temperature=0,
            )
            texts.append(answer.choices[0].message.content)

        waiting = threading.Thread(target=ask)
        waiting.start()
        stack.start("verifier", "--port", str(port), "--threads", "1")
        waiting.join(240)
        assert texts
        assert texts[0]
        assert status(f"{stack.url}/readyz") == 200


def test_an_agent_with_another_tokenizer_is_refused_and_says_so(service: Service, tmp_path: Path) -> None:
    tiny_llama(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    ).save_pretrained(tmp_path)
    words = Tokenizer(WordLevel({f"word{i}": i for i in range(16)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    ended = subprocess.run(
        [*ATTACH, service.stack.url, "--key", KEY, "--draft-model", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "tokenizer" in ended.stderr


def test_an_agent_with_a_wrong_key_is_refused_and_says_so(service: Service) -> None:
    ended = subprocess.run(
        [*ATTACH, service.stack.url, "--key", "wrong", "--draft-model", "none"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "key" in ended.stderr
