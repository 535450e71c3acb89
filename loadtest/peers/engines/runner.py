"""The common part of all runners: load a model, then run jobs and report their time.

A line of JSON on stdin is a job ({"prompts": [[ids]], "tokens": n}), a line on stdout its answer ({"wall", "cpu",
"outputs"}); the first line on stdout reports that the model is loaded ({"ready": note}). CPU seconds are those of all
threads of this process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Output = list[int] | str  # a session's new token ids, or their text where a system does not return ids
Answer = Callable[[dict[str, Any]], dict[str, Any]]
Generate = Callable[[list[list[int]], int], list[Output]]


@dataclass(frozen=True)
class Setup:
    """What all systems get."""

    model: str  # a transformers folder; a GGUF file for llama.cpp
    dtype: str
    threads: int
    sessions: int  # at most, at the same time
    context: int  # tokens per session, prompt and output, at most
    step_tokens: int  # per forward, at most


def serve(load: Callable[[Setup], tuple[Generate, str]]) -> None:
    """Runs until stdin ends. `load` returns the generating function and a note on its configuration."""

    def begin(setup: dict[str, Any]) -> tuple[Answer, str]:
        generate, note = load(Setup(**setup))

        def answer(job: dict[str, Any]) -> dict[str, Any]:
            cpu, wall = time.process_time(), time.perf_counter()
            outputs = generate(job["prompts"], job["tokens"])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            return {"wall": wall, "cpu": cpu, "outputs": outputs}

        return answer, note

    answer_all(begin)


def answer_all(begin: Callable[[dict[str, Any]], tuple[Answer, str]]) -> None:
    """Runs until stdin ends. `begin` receives the setup and returns what answers a job, and a note."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keeps what libraries print out of the answers
    answer, note = begin(json.loads(sys.argv[1]))
    print(json.dumps({"ready": note}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers)
    os._exit(0)  # some systems have threads that do not end
