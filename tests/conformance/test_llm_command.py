"""simonw's `llm`: a command whose models are declared in a file of the user's."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.conftest import LONG, PROMPT, SCHEMA, SEED, SIDES, TOKENS, Gateway, text_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODELS = """
- model_id: edgedraft
  model_name: {model}
  api_base: {url}/v1
  api_key_name: edgedraft
  supports_schema: true
  supports_tools: true
"""


@pytest.mark.parametrize(("stream", "temperature"), [(True, 0), (False, 0.8)], ids=["streamed", "whole"])
def test_the_command_prints_the_same_text(
    side: str, stream: bool, temperature: float, gateway: Gateway, python_client: Path, tmp_path: Path
) -> None:
    ask = Command(gateway, python_client, tmp_path)
    printed = ask(side, *([] if stream else ["--no-stream"]), temperature=temperature, max_tokens=TOKENS)
    assert printed.removesuffix("\n") == text_of(gateway.reference(temperature=temperature))


def test_the_command_prints_what_fits_a_schema(gateway: Gateway, python_client: Path, tmp_path: Path) -> None:
    ask = Command(gateway, python_client, tmp_path)
    planets = [
        json.loads(ask(side, "--schema", json.dumps(SCHEMA), "--no-stream", temperature=0, max_tokens=LONG))
        for side in SIDES
    ]
    assert planets[0] == planets[1]
    assert set(planets[0]) == set(SCHEMA["required"])


@dataclass(frozen=True)
class Command:
    """The command of one environment, with a folder of its own for what it keeps."""

    gateway: Gateway
    python: Path
    folder: Path

    def __call__(self, side: str, *words: str, **options: float) -> str:
        """What it prints when it is asked the common question."""
        models = MODELS.format(model=self.gateway.model, url=self.gateway.url)
        (self.folder / "extra-openai-models.yaml").write_text(models)
        command = [str(self.python), "-m", "llm", "prompt", PROMPT, "-m", "edgedraft", "--key", self.gateway.keys[side]]
        for name, value in {"seed": SEED, **options}.items():
            command += ["-o", name, str(value)]
        done = subprocess.run(
            [*command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, "LLM_USER_PATH": str(self.folder)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
