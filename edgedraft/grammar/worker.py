"""The worker process of service.py: checks one grammar per line of its input, within the limits of its arguments.

Run as `python -m edgedraft.grammar.worker CPU_SECONDS MEMORY_BYTES`. An input line is a JSON pair of a Check and a
grammar; an output line is a JSON string, empty for a grammar without fault. The first output line says that the worker
is ready. A grammar that exceeds a limit ends the process.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from typing import Literal

from edgedraft.grammar.compiler import GrammarError, try_grammar, validate_grammar

Check = Literal["compile", "try"]


def find_error(check: Check, grammar: str) -> str:
    """Returns what is wrong with the grammar, empty for nothing. Takes as long as compiling takes."""
    try:
        if check == "try":
            try_grammar(grammar)
        else:
            validate_grammar(grammar)
    except GrammarError as error:
        return str(error)
    return ""


def main() -> None:
    cpu_seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limits; a container's may be lower
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    find_error("try", "start: /a*/")  # the tokenizer is built once, before the time of any grammar counts
    _write("ready")
    for line in sys.stdin:
        check, grammar = json.loads(line)
        _limit_cpu(cpu_seconds)
        error = find_error(check, grammar)
        _limit_cpu(0)
        _write(error)


def _write(text: str) -> None:
    print(json.dumps(text), flush=True)


def _limit_cpu(seconds: float) -> None:
    """Has the process killed after so much more processor time; 0 removes the limit. Does nothing on Windows."""
    with suppress(AttributeError):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
