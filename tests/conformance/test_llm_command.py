"""simonw's `llm`: a command whose models are declared in a file of the user's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.conftest import PROMPT, SEED, TOKENS, Gateway, text_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODELS = """
- model_id: edgedraft
  model_name: {model}
  api_base: {url}/v1
  api_key_name: edgedraft
  supports_schema: true
  supports_tools: true
"""


@pytest.mark.parametrize(("stream", "temperature"), [(True, "0"), (False, "0.8")], ids=["streamed", "whole"])
def test_the_command_prints_the_same_text(
    side: str, stream: bool, temperature: str, gateway: Gateway, python_client: Path, tmp_path: Path
) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(model=gateway.model, url=gateway.url))
    options = {"temperature": temperature, "seed": str(SEED), "max_tokens": str(TOKENS)}
    command = [str(python_client), "-m", "llm", "prompt", PROMPT, "-m", "edgedraft", "--key", gateway.keys[side]]
    command += [word for name, value in options.items() for word in ("-o", name, value)]
    done = subprocess.run(
        [*command, *([] if stream else ["--no-stream"])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.removesuffix("\n") == text_of(gateway.reference(temperature=float(temperature)))
