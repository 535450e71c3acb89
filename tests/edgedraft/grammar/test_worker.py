"""The worker process: its protocol line by line, and that processor time ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from edgedraft.grammar.worker import find_error

MEMORY = 1 << 30
SLOW = 'start: %json {"type": "integer", "multipleOf": 999983}'


def run_worker(*checks: tuple[str, str], cpu_seconds: float = 10.0) -> tuple[list[str], int]:
    """The decoded output lines of a worker with these input lines, and its exit status."""
    out = subprocess.run(
        [sys.executable, "-m", "edgedraft.grammar.worker", str(cpu_seconds), str(MEMORY)],
        input="".join(json.dumps(check) + "\n" for check in checks),
        capture_output=True,
        text=True,
        check=False,
    )
    return [json.loads(line) for line in out.stdout.splitlines()], out.returncode


def test_it_answers_each_line_and_ends_with_its_input() -> None:
    lines, status = run_worker(("try", 'start: "a"'), ("compile", "start: missing"), ("try", "start: /b/"))
    assert lines[0] == "ready"
    assert [bool(error) for error in lines[1:]] == [False, True, False]
    assert "missing" in lines[2]
    assert status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of processor time")
def test_processor_time_ends_it() -> None:
    lines, status = run_worker(("try", 'start: "a"'), ("try", SLOW), ("try", 'start: "a"'), cpu_seconds=0.1)
    assert lines == ["ready", ""]
    assert status == -signal.SIGPROF


def test_only_a_compile_check_may_refer_to_token_ids() -> None:
    grammar = 'start: "a" <[100000]> "b"'
    assert find_error("compile", grammar) == ""
    assert find_error("try", grammar)
