"""The Codex CLI as it is installed: its default tools over the Responses API, through a gateway, to a scripted model.

A model that says what it is asked to say makes Codex run a chosen call; a small real one calls what it likes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import SCHEMA
from tests.conformance.environments import codex_command
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CONTEXT = 1 << 17  # tokens, which are bytes here
# The result of a tool is shown as a request to say it.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'Call them by <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\n{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'tool' %}say {% endif %}{{ m.content }}"
    "{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = """
model = "{model}"
model_provider = "edgedraft"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.edgedraft]
name = "EdgeDraft"
base_url = "{url}/v1"
env_key = "EDGEDRAFT_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


@dataclass(frozen=True)
class Codex:
    """The command with a home and a working folder of its own, and the verifier that its requests reach."""

    command: Path
    home: Path
    verifier: ScriptedVerifier

    async def __call__(self, *words: str) -> list[dict[str, Any]]:
        """The events of `codex exec`, which has to succeed."""
        # The command that it runs is this test's own, and its sandbox needs rights that a container may lack.
        flags = ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
        process = await asyncio.create_subprocess_exec(
            self.command,
            "exec",
            *words[:-1],
            *flags,
            words[-1],
            cwd=self.home,
            env={**os.environ, "CODEX_HOME": str(self.home), "EDGEDRAFT_KEY": KEY},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complaints = await process.communicate()
        assert process.returncode == 0, printed + complaints
        return [json.loads(line) for line in printed.splitlines()]

    def prompt(self) -> str:
        """Of the last request."""
        return toy_model.TOKENIZER.decode(self.verifier.opened[-1].prompt, skip_special_tokens=False)


@pytest.fixture
async def codex(tmp_path: Path) -> AsyncIterator[Codex]:
    command = await asyncio.to_thread(codex_command)
    card = toy_model.card(CONTEXT, template=TEMPLATE)
    async with ScriptedVerifier(step=0, card=card) as verifier, running_gateway(tmp_path, verifier) as gateway:
        yield Codex(command, home(tmp_path / "codex", gateway), verifier)


def home(folder: Path, gateway: Gateway) -> Path:
    folder.mkdir()
    (folder / "config.toml").write_text(CONFIG.format(model=toy_model.NAME, url=gateway.url))
    return folder


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def said(events: list[dict[str, Any]]) -> str:
    (message,) = (item for item in items(events) if item["type"] == "agent_message")
    return message["text"]


def items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["item"] for event in events if event["type"] == "item.completed"]


async def test_it_runs_a_command_and_goes_on_with_its_result(codex: Codex) -> None:
    asked = call("exec_command", cmd="echo light; echo house")
    events = await codex(f"say {asked}")
    (command,) = (item for item in items(events) if item["type"] == "command_execution")
    assert (command["aggregated_output"], command["exit_code"]) == ("light\nhouse\n", 0)
    assert said(events).endswith("light\nhouse\n")
    usage = events[-1]["usage"]
    assert usage["output_tokens"] == sum(len(commit.tokens) for commit in codex.verifier.commits)

    thread = events[0]["thread_id"]
    assert said(await codex("resume", thread, "say aye")) == "aye"
    _, asking, history = codex.prompt().partition(asked)
    assert asking
    places = [history.index(part) for part in ('"exec_command"', "light\nhouse", "say aye")]
    assert places == sorted(places)
    assert len(codex.verifier.opened) == 3


async def test_it_calls_a_tool_of_a_namespace(codex: Codex) -> None:
    events = await codex(f"say {call('multi_agent_v1__close_agent', target='nobody')}")
    assert "nobody" in said(events)
    assert "multi_agent_v1__close_agent" in codex.prompt()


async def test_its_output_schema_becomes_a_grammar(codex: Codex, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    planet = {"name": "Mars", "moons": 2, "rocky": True}
    events = await codex("--output-schema", str(tmp_path / "schema.json"), f"say {json.dumps(planet)}")
    assert json.loads(said(events)) == planet
    (opened,) = codex.verifier.opened
    assert "moons" in opened.sampling.grammar
