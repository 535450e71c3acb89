"""Verifier, gateway and agent for the folder, and two keys: the owner of one has the agent, the other's owner has none.

So every client, whatever it lets its user set, can be asked with drafting and without.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgedraft.local.processes import Supervisor
from tests.conformance.clients.features import Given
from tests.conformance.environments import CLIENTS, python_clients

PROMPT = "Tell a story about a lighthouse keeper and a storm."
SEED = 11
TOKENS = 10
LONG = 80
SIDES = ("edge", "datacenter")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
TOOL_RESULT = "Rain, 12 degrees"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "moons": {"type": "integer", "minimum": 0, "maximum": 200},
        "rocky": {"type": "boolean"},
    },
    "required": ["name", "moons", "rocky"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Gateway:
    """A running one, and a key of each side."""

    url: str
    model: str
    keys: Mapping[str, str]
    _reported: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def stop(self) -> str:
        """A stop string from the middle of the greedy text, across tokens' borders."""
        text = text_of(self.reference())
        return text[len(text) // 2 - 3 : len(text) // 2 + 3]

    def given(self, side: str) -> Given:
        return Given(
            f"{self.url}/v1",
            self.keys[side],
            self.model,
            PROMPT,
            SEED,
            TOKENS,
            LONG,
            self.stop,
            TOOL,
            TOOL_RESULT,
            SCHEMA,
        )

    def post(self, side: str, path: str, **body: Any) -> httpx.Response:
        """One request without any client package: what they all are compared with."""
        return httpx.post(
            f"{self.url}/{path}",
            json={"model": self.model, **body},
            headers={"authorization": f"Bearer {self.keys[side]}"},
            timeout=120,
            trust_env=False,
        )

    def reference(self, **change: Any) -> dict[str, Any]:
        """What the common question is answered without any agent, asked once; greedy unless `change` says more."""
        body = {"messages": [{"role": "user", "content": PROMPT}], "seed": SEED, "max_tokens": TOKENS, "temperature": 0}
        body |= change
        mark = json.dumps(body, sort_keys=True)
        if mark not in self._reported:
            reply = self.post("datacenter", "v1/chat/completions", **body)
            assert reply.status_code == 200, reply.text
            self._reported[mark] = reply.json()
        return self._reported[mark]


def text_of(completion: dict[str, Any]) -> str:
    return completion["choices"][0]["message"]["content"]


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("conformance-logs")
    database = f"sqlite+aiosqlite:///{folder / 'gateway.db'}"
    with Supervisor("conformance-key", folder) as stack:
        verifier = stack.start_verifier("--threads", "1", "--dtype", "float32")
        stack.start_gateway(verifier.address, flags=("--port", "0", "--database", database))
        stack.wait_for_verifier()
        keys = {side: _key(database, side) for side in SIDES}
        stack.start("attach", stack.url, "--key", keys["edge"], "--threads", "1", "--no-past-outputs")
        models = httpx.get(
            f"{stack.url}/v1/models", headers={"authorization": f"Bearer {keys['edge']}"}, trust_env=False
        )
        yield Gateway(stack.url, models.json()["data"][0]["id"], keys)


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def python_client() -> Path:
    """The Python of an environment of its own; made on the first run, which takes about a minute."""
    return python_clients()


def run_client(command: Sequence[str], gateway: Gateway) -> dict[str, dict[str, Any]]:
    """What a client's process tells of each feature, by side. Raises CalledProcessError or TimeoutExpired."""
    givens = {side: asdict(gateway.given(side)) for side in SIDES}
    done = subprocess.run(
        [*command, json.dumps(givens)], cwd=CLIENTS, stdout=subprocess.PIPE, text=True, timeout=600, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _key(database: str, owner: str) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "edgedraft.cli", "keys", "create", "--database", database, "--owner", owner],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return made.stdout.strip()
