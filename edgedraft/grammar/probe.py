"""How much a grammar may ask for, and whether one stays within it: found out in a process that can be ended.

Grammars come from clients. Compiling one is mostly a matter of milliseconds, but llguidance's own limits do not cover
all that a hostile one can make it do (an intersection of twenty patterns in a JSON schema runs for minutes), and a
thread cannot be ended. What a grammar does to a text is verifier/engine/grammar.py's. This file runs by itself, too: as
the process that it starts; so it imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

PROBE_SECONDS = 2  # of processor time: a busy machine refuses no more than an idle one
PATIENCE = 30.0  # seconds by the clock, where processor time cannot be bounded or had
PROBE_BYTES = 1 << 31
REASON = 500  # characters
TOO_LONG = "the grammar takes too long to compile"


def limits() -> LLParserLimits:
    """A tenth to a quarter of llguidance's defaults, which are meant for grammars that one wrote oneself."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=400_000,
        step_lexer_fuel=50_000,
        step_max_items=5_000,
        max_items_in_row=300,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def refusal(grammar: str) -> str:
    """Why this grammar cannot be had; empty if it can. Takes about 0.3 seconds of processor time, mostly to start."""
    try:
        probe = subprocess.run(
            [sys.executable, "-P", __file__, str(PROBE_SECONDS)],
            input=grammar.encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TOO_LONG
    except OSError as error:
        return f"grammars cannot be compiled now: {error.strerror}"
    if probe.returncode < 0:
        return TOO_LONG
    if probe.returncode:
        return "the grammar is too large to compile"
    return probe.stdout.decode(errors="replace")


def _main() -> None:
    from llguidance import LLMatcher

    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
        resource.setrlimit(resource.RLIMIT_AS, (PROBE_BYTES, PROBE_BYTES))
    grammar = sys.stdin.buffer.read().decode()
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=limits())
    sys.stdout.buffer.write((messages[0] if failed else "")[:REASON].encode())


if __name__ == "__main__":
    _main()
