"""The one job of every runner: load a model, then generate on demand and say what that took.

A line of JSON on stdin is a job ({"prompts": [[ids]], "tokens": n}), a line on stdout its answer ({"wall", "cpu",
"outputs"}); the first line out says that the model is loaded ({"ready": note}). CPU seconds are those of this process,
all its threads, by the operating system's clock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Output = list[int] | str  # a session's new tokens, or their text where a system tells no ids
Answer = Callable[[dict[str, Any]], dict[str, Any]]
Generate = Callable[[list[list[int]], int], list[Output]]


@dataclass(frozen=True)
class Setup:
    """What all systems are given alike."""

    model: str  # a transformers folder; a GGUF file for llama.cpp
    dtype: str
    threads: int
    sessions: int  # at once, at most
    context: int  # tokens of one session, prompt and output, at most
    step_tokens: int  # in one forward, at most


def serve(load: Callable[[Setup], tuple[Generate, str]]) -> None:
    """Runs until stdin ends. `load` gives the generating function and a note on how it was set up."""

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
    """Runs until stdin ends. `begin` is given the setup, and gives what answers a job and a note."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    answer, note = begin(json.loads(sys.argv[1]))
    print(json.dumps({"ready": note}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers)
    os._exit(0)  # some systems have threads that never end
