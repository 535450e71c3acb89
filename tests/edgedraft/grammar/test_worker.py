"""The worker process: what it answers, and which grammars its two checks take."""

from __future__ import annotations

import json

from edgedraft.grammar.worker import find_error
from edgedraft.workers.limits import WorkerLimits
from edgedraft.workers.process import WorkerProcess


def test_it_answers_each_check() -> None:
    worker = WorkerProcess("edgedraft.grammar.worker", WorkerLimits())
    try:
        worker.wait_ready()
        checks = [("try", 'start: "a"'), ("compile", "start: missing"), ("try", "start: /b/")]
        replies = [worker.run("", json.dumps(check).encode()) for check in checks]
    finally:
        worker.close()
    assert [reply.error for reply in replies] == ["", "", ""]
    assert [bool(reply.output) for reply in replies] == [False, True, False]
    assert b"missing" in replies[1].output
    assert all(reply.cpu_seconds >= 0 for reply in replies)


def test_only_a_compile_check_may_refer_to_token_ids() -> None:
    grammar = 'start: "a" <[100000]> "b"'
    assert find_error("compile", grammar) == ""
    assert find_error("try", grammar)
