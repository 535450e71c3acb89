"""The browser agent's modules: their types, and that they draft what the Python agent drafts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.environments import typescript_compiler

NODE = shutil.which("node")
PAGE = Path(__file__).parents[4] / "gateway" / "api" / "attach" / "page"
REPLAY = Path(__file__).parents[3] / "vectors" / "replay.mjs"

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js here")


def test_recorded_sessions_give_the_same_drafts_as_in_python() -> None:
    assert NODE
    replayed = subprocess.run([NODE, REPLAY, PAGE / "agent"], capture_output=True, text=True, timeout=120, check=False)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


@pytest.mark.long
def test_types_are_sound() -> None:
    command = [typescript_compiler(), "--project", PAGE / "tsconfig.json"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert checked.returncode == 0, checked.stdout
